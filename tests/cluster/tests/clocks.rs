//! Clocks are wrong. Stamps order writes all the same, and a clock that is too wrong is found out.

use mks_tests_cluster::{Cluster, NodeSetup};
use std::time::{SystemTime, UNIX_EPOCH};

/// Stamps count Unix milliseconds in their upper 48 bits.
fn milliseconds(written: u64) -> u64 {
    written >> 16
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamps_of_one_key_rise_whichever_clock_makes_them() {
    let mut cluster = Cluster::empty();
    // As far off as is allowed between any two, with room for the time that a frame is under way.
    for (id, offset) in [(1, "0"), (2, "200"), (3, "-200")] {
        let setup = if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
        let node = cluster.add(id, &setup);
        node.set_arguments(&[&format!("--test-clock-offset-ms={offset}")]);
        node.start();
    }
    cluster.wait_ready();

    let mut last = 0;
    for number in 0..60_u64 {
        // Fast, slow, fast, right: a wall clock alone would lose the write after each step back.
        let id = [2, 3, 2, 1][number as usize % 4];
        let value = format!("value {number}");
        let written = cluster.node(id).client().put("contended", &value).await.unwrap().written;
        assert!(written > last, "put {number} through node {id} is stamped {written}, the one before {last}");
        last = written;
        let found = cluster.node(1 + number % 3).client().get("contended").await.unwrap();
        assert_eq!(found, Some(value), "the latest put wins");
    }

    // A clock that is set back while its node is down does not take stamps back either.
    cluster.node_mut(2).terminate();
    cluster.node_mut(2).set_arguments(&["--test-clock-offset-ms=-200"]);
    cluster.node_mut(2).start();
    cluster.node_mut(2).wait_ready();
    let written = cluster.node(2).client().put("contended", "after").await.unwrap().written;
    assert!(written > last, "stamped {written} after {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_too_far_off_is_flagged_and_spoils_nothing() {
    for offset in ["10000", "-10000"] {
        let mut cluster = Cluster::of(3);
        cluster.node(1).client().put("k", "before").await.unwrap();
        cluster.node_mut(3).terminate();
        cluster.node_mut(3).set_arguments(&[&format!("--test-clock-offset-ms={offset}")]);
        cluster.node_mut(3).start();

        // Before it has heard both of the others, node 3 can't know that it is the one that is off.
        for (id, others) in [(1, 1), (3, 2)] {
            cluster
                .eventually("a sane node and the other one say that the clock is off", async |cluster| {
                    let status = cluster.node(id).client().status().await;
                    let about =
                        |warnings: &[String]| warnings.iter().filter(|text| text.contains("the clock of")).count();
                    status.is_ok_and(|status| about(&status.warnings) >= others)
                })
                .await;
        }
        // Its own writes are refused: no stamp from its future or past gets a quorum.
        let outcome = cluster.node(3).client().put("k", "from another time").await;
        assert!(outcome.is_err(), "a node that is {offset} ms off wrote with {outcome:?}");

        let written = cluster.node(1).client().put("k", "after").await.unwrap().written;
        let drift = milliseconds(written).abs_diff(now_ms());
        assert!(drift < 5_000, "the bad clock dragged a stamp {drift} ms away");
        assert_eq!(cluster.node(2).client().get("k").await.unwrap().as_deref(), Some("after"));
    }
}
