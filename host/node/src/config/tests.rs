use super::*;
use std::path::Path;

const MINIMUM: &str = "[node]\nid = 1\ndata_dir = \"d\"\n";

fn load(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mks.toml");
    std::fs::write(&file, text).unwrap();
    let result = Config::load(&Sources {
        file: Some(file),
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        flags: flags
            .iter()
            .map(|(name, field, value)| Flag { name: (*name).into(), field: (*field).into(), value: (*value).into() })
            .collect(),
    });
    // The directory's name is random; the tests look at the file's.
    result.map_err(|mut error| {
        for problem in &mut error.problems {
            problem.origin = problem.origin.replace(&format!("{}/", dir.path().display()), "");
        }
        error
    })
}

#[test]
fn id_and_data_dir_are_enough() {
    let config = load(MINIMUM, &[], &[]).unwrap();
    let mut expected = Config::default();
    expected.node.id = NodeId(1);
    expected.node.data_dir = "d".into();
    assert_eq!(config, expected);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let text = "[node]\nid = 1\ndata_dir = \"file\"\nzone = \"file\"\nweight = 10\n";
    let environment =
        [("MKS_NODE__ZONE", "environment"), ("MKS_NODE__WEIGHT", "20"), ("MKS_ADDR", "x"), ("HOME", "/__")];
    let config = load(text, &environment, &[("--set", "node.weight", "30")]).unwrap();
    assert_eq!(config.node.data_dir, Path::new("file"));
    assert_eq!(config.node.zone, "environment");
    assert_eq!(config.node.weight, 30);
}

#[test]
fn a_variable_takes_the_type_that_its_field_has() {
    let environment = [
        ("MKS_NODE__ZONE", "17"),
        ("MKS_CLUSTER__JOIN", "10.0.0.1:7401, node-2:7401"),
        ("MKS_CLUSTER__KEY", "0001020304050607080910111213141516171819202122232425262728293031"),
        ("MKS_LIMITS__VALUE_BYTES_MAX", "1_000"),
        ("MKS_STORAGE__OPTIONS__COMPRESSION", "lz4"),
        ("MKS_LOG__FORMAT", "json"),
        ("MKS_METRICS__ENABLED", "false"),
    ];
    let config = load(MINIMUM, &environment, &[]).unwrap();
    assert_eq!(config.node.zone, "17");
    assert_eq!(config.cluster.join, ["10.0.0.1:7401", "node-2:7401"]);
    assert_eq!(config.cluster.key.unwrap().bytes()[31], 0x31);
    assert_eq!(config.limits.value_bytes_max, 1_000);
    assert_eq!(config.storage.options["compression"], "lz4");
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(!config.metrics.enabled);
}

/// A bad file, and pieces that the one message must contain; the first is where to look.
const BAD_FILES: &[(&str, &[&str])] = &[
    ("[node]\nid = 1\nwieght = 3\n", &["mks.toml:3: ", "unknown field `wieght`", "`weight`"]),
    ("[node]\nid = 1\n\n[nodes]\nid = 2\n", &["mks.toml:4: ", "unknown field `nodes`", "`node`"]),
    ("[node]\nid = \"one\"\n", &["mks.toml:2: ", "invalid type: string \"one\""]),
    ("[node]\nid = -1\n", &["mks.toml:2: ", "-1"]),
    ("[node]\nid = 1\nid = 2\n", &["mks.toml:3: ", "duplicate key"]),
    ("[node]\nid = \n", &["mks.toml:2: "]),
    ("[listen]\nclient = \"localhost\"\n", &["mks.toml:2: ", "invalid socket address"]),
    ("[log]\nformat = \"xml\"\n", &["mks.toml:2: ", "unknown variant `xml`", "`people`"]),
    ("[storage]\nadapter = \"leveldb\"\n", &["mks.toml:2: ", "no adapter named \"leveldb\"", "fjall"]),
    ("[storage]\noptions = { level = 3 }\n", &["mks.toml:2: ", "expected a string"]),
    ("[storage]\nadapter = \"./no.wasm\"\n", &["mks.toml:2: storage.adapter names ./no.wasm", "no such file"]),
    ("[storage]\nadapter = []\n", &["mks.toml:2: storage.adapter names 0 adapters"]),
    ("[storage]\nadapter = \"compress\"\n", &["mks.toml:2: storage.adapter ends with compress", "\"fjall\""]),
    ("[storage]\nadapter = [\"fjall\", \"fjall\"]\n", &["mks.toml:2: storage.adapter names fjall before the end"]),
    ("[storage]\nadapter = [\"compress\", \"leveldb\"]\n", &["mks.toml:2: ", "no adapter named \"leveldb\""]),
    ("[storage]\nadapter = [{ name = \"compress\", key = \"k\" }]\n", &["mks.toml:2: ", "unknown field `key`"]),
    ("[storage]\nadapter = 3\n", &["mks.toml:2: ", "the name of an adapter, or a list of adapters"]),
    ("[storage]\nearlier = [\"memory\"]\n", &["mks.toml:2: storage.earlier names memory", "which reads itself"]),
    ("[storage]\nshadow = \"leveldb\"\n", &["mks.toml:2: ", "no adapter named \"leveldb\""]),
    ("[storage]\nshadow = \"memory\"\n", &["mks.toml:2: storage.shadow is memory, which keeps nothing"]),
    ("[storage]\nshadow = { name = \"compress\" }\n", &["mks.toml:2: storage.shadow is compress", "\"rocksdb\""]),
    ("[storage]\nshadow = \"./no.wasm\"\n", &["mks.toml:2: storage.shadow names ./no.wasm", "no such file"]),
    (
        "[storage]\nadapter = \"memory\"\nshadow = \"fjall\"\n",
        &["mks.toml:3: storage.shadow is fjall, and the adapter memory has no place for it"],
    ),
    (
        "[storage]\nadapter = [{ name = \"encrypt\", secrets = { key = \"no.key\" } }, \"fjall\"]\n",
        &["mks.toml:2: storage.adapter names no.key as the secret `key` of encrypt", "no such file"],
    ),
    (
        "[storage]\nadapter = [{ name = \"fjall\", options = { workers = \"3\" } }]\noptions = { workers = \"4\" }\n",
        &["mks.toml:3: storage.options are those of fjall", "keep them in one place"],
    ),
    ("[cluster]\nkey = \"00ff\"\n", &["mks.toml:2: ", "3 bytes; a key is 32 bytes"]),
    ("[cluster]\njoin = [\"a:1\"]\nbootstrap = true\n", &["mks.toml:3: cluster.bootstrap", "cluster.join"]),
    ("[cluster]\njoin = [\"node-1\"]\n", &["mks.toml:2: cluster.join", "\"node-1\" is not host:port"]),
    ("[cluster]\njoin = [\"::1:7401\"]\n", &["mks.toml:2: cluster.join", "is not host:port"]),
    ("[cluster]\npartition_bits = 17\n", &["mks.toml:2: cluster.partition_bits is 17, the most is 16"]),
    ("[listen]\nhttp = \"127.0.0.1:7400\"\n", &["mks.toml:2: listen.http is 127.0.0.1:7400, and so is listen.client"]),
    ("[listen]\npeer = \"0.0.0.0:7401\"\n", &["mks.toml:2: listen.peer 0.0.0.0:7401", "set listen.advertise"]),
    ("[listen]\nadvertise = \"a:1\"\n", &["mks.toml:2: listen.advertise", "without a port"]),
    (
        "[limits]\nbatch_bytes_max = 1000\n",
        &["mks.toml:2: limits.value_bytes_max is 4194304, more than limits.batch_bytes_max (1000)"],
    ),
    ("[limits]\nvalue_bytes_max = 0\n", &["mks.toml:2: limits.value_bytes_max is 0, the least is 1"]),
    ("[limits]\nkey_bytes_max = 65536\n", &["mks.toml:2: limits.key_bytes_max is 65536, the most is 16384"]),
    ("[limits]\ndeadline_max_ms = 4000\n", &["mks.toml:2: limits.deadline_default_ms is 5000, more than"]),
    ("[gossip]\nprobe_timeout_ms = 300\n", &["mks.toml:2: gossip.probe_timeout_ms is 300, but must be less than"]),
    ("[gossip]\nprobe_period_ms = 2000\n", &["mks.toml:2: gossip.probe_period_ms is 2000, more than"]),
    ("[log]\nlevel = \"mks=loud\"\n", &["mks.toml:2: log.level \"mks=loud\" is no log level"]),
];

#[test]
fn a_bad_file_is_refused_with_file_line_and_reason() {
    for (text, pieces) in BAD_FILES {
        let set = [("MKS_NODE__ID", "1"), ("MKS_NODE__DATA_DIR", "d")];
        let error = load(text, &set, &[]).map(drop).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.problems.len(), 1, "{text:?}: {message}");
        let problem = format!("{}: {}", error.problems[0].origin, error.problems[0].reason);
        assert!(problem.starts_with(pieces[0]), "{text:?}: {message}");
        assert!(pieces.iter().all(|piece| problem.contains(piece)), "{text:?}: {message}");
        assert!(!error.problems[0].reason.contains('\n'), "{text:?}: {message}");
    }
}

#[test]
fn a_bad_variable_or_flag_is_named() {
    let error = load(MINIMUM, &[("MKS_NODE__WEIGHT", "heavy")], &[]).unwrap_err().to_string();
    assert!(error.contains("environment variable MKS_NODE__WEIGHT: node.weight = \"heavy\": invalid type"), "{error}");
    let error = load(MINIMUM, &[("MKS_NODE__WIEGHT", "1")], &[]).unwrap_err().to_string();
    assert!(error.contains("environment variable MKS_NODE__WIEGHT") && error.contains("unknown field"), "{error}");
    let error = load(MINIMUM, &[], &[("--weight", "node.weight", "0")]).unwrap_err().to_string();
    assert!(error.contains("--weight: node.weight is 0, the least is 1"), "{error}");
    let error = load(MINIMUM, &[], &[("--set", "weight", "1")]).unwrap_err().to_string();
    assert!(error.contains("--set: sets \"weight\", which is no setting"), "{error}");
    let error = load(MINIMUM, &[("MKS_NODE__ZONE", "a\nid = 7")], &[]).map(|config| config.node);
    assert_eq!(error.unwrap().id, NodeId(1), "a newline is part of the value");
}

#[test]
fn everything_that_is_missing_is_said_at_once() {
    let error = Config::load(&Sources::default()).unwrap_err().to_string();
    assert!(error.contains("node.id is missing") && error.contains("node.data_dir is missing"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources { file: Some("/nowhere/mks.toml".into()), ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.contains("/nowhere/mks.toml: can't be read"), "{error}");
}

#[test]
fn the_roster_says_where_the_sockets_really_are() {
    let bound = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let mut listen = Listen { advertise: Some("node-1".into()), ..Listen::default() };
    listen.advertise_http = Some("proxy:80".into());
    let addresses = listen.advertised(bound(1), bound(2), bound(3));
    assert_eq!(addresses.client, "node-1:1");
    assert_eq!(addresses.peer, "node-1:2");
    assert_eq!(addresses.http, "proxy:80");
    listen.advertise = Some("fd00::7".into());
    assert_eq!(listen.advertised(bound(1), bound(2), bound(3)).client, "[fd00::7]:1");
}

/// The settings of a section, as serde itself lists them when it meets a stranger.
fn fields(section: &str) -> Vec<String> {
    let error = toml::from_str::<Config>(&format!("[{section}]\nno_such_field = 1\n")).unwrap_err();
    let (_, list) = error.message().split_once("expected ").unwrap();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn sections() -> Vec<String> {
    let error = toml::from_str::<Config>("no_such_section = 1").unwrap_err();
    let (_, list) = error.message().split_once("one of ").unwrap();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_shows_every_default() {
    let example: Config = toml::from_str(EXAMPLE).unwrap();
    let mut expected = Config::default();
    expected.node.id = NodeId(1);
    expected.node.data_dir = "/var/lib/mks".into();
    assert_eq!(example, expected);
}

#[test]
fn the_example_documents_every_setting() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        });
    toml::from_str::<Config>(&uncommented).unwrap();
    let table: toml::Table = toml::from_str(&uncommented).unwrap();
    assert_eq!(sections().len(), table.len());
    for section in sections() {
        // What exists for tests alone is no setting that operators should meet.
        for field in fields(&section).into_iter().filter(|field| !field.starts_with("test_")) {
            assert!(table[&section].get(&field).is_some(), "[{section}] {field} is not in docs/mks.example.toml");
        }
    }
}
