//! Reading Prometheus' text format.

/// The value of the first series whose name is `name` and whose labels contain `labels`; 0 if there is none.
#[must_use]
pub fn metric(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    series(metrics, name, labels).next().unwrap_or(0.0)
}

/// The sum over all such series.
#[must_use]
pub fn metric_sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    series(metrics, name, labels).sum()
}

fn series<'a>(metrics: &'a str, name: &'a str, labels: &'a [&'a str]) -> impl Iterator<Item = f64> + 'a {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let wanted = labels.iter().all(|label| found.contains(label));
        if wanted { value.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\na_total 3\na_total_more 9\nb{x=\"1\",y=\"2\"} 4\nb{x=\"2\",y=\"2\"} 5.5\n";

    #[test]
    fn a_series_is_found_by_its_whole_name_and_labels() {
        assert_eq!(metric(TEXT, "a_total", &[]), 3.0);
        assert_eq!(metric(TEXT, "b", &["x=\"2\""]), 5.5);
        assert_eq!(metric_sum(TEXT, "b", &["y=\"2\""]), 9.5);
        assert_eq!(metric_sum(TEXT, "c", &[]), 0.0);
    }
}
