//! Work of a node that takes its time, followed to its end.

use super::client::Failure;
use super::output::progress;
use anyhow::anyhow;
use tonic::Streaming;

/// Follows work that a node goes on telling about, with a progress bar; `left` is how much of a step is to come.
/// Returns the last step.
///
/// # Errors
/// When the node stops telling; the work, `what`, goes on as long as the node runs.
pub(super) async fn follow<T: Default>(
    mut steps: Streaming<T>,
    doing: &'static str,
    what: &str,
    left: impl Fn(&T) -> u64,
) -> Result<T, Failure> {
    let lost = |reason: &str| {
        Failure::Local(anyhow!("the node stopped telling how far it is ({reason}); if it runs, the {what} goes on"))
    };
    let bar = progress(doing, Some(0));
    let mut last = T::default();
    loop {
        match steps.message().await {
            Ok(Some(step)) => {
                bar.set_length(bar.length().unwrap_or(0).max(left(&step)));
                bar.set_position(bar.length().unwrap_or(0) - left(&step));
                last = step;
            }
            Ok(None) if left(&last) == 0 => break,
            Ok(None) => return Err(lost("the stream ended")),
            Err(status) => return Err(lost(status.message())),
        }
    }
    bar.finish_and_clear();
    Ok(last)
}
