//! A config file, or settings as variables and flags have them: sound, or refused with a reason, and nothing in
//! between.

use mks::config::{Config, ConfigError, EXAMPLE, Flag, Sources};

pub fn run(input: &[u8]) {
    let Some((&kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    if kind.is_ascii_uppercase() {
        let flag = |line: &str| {
            let (field, value) = line.split_once('=').unwrap_or((line, ""));
            Flag { name: "--set".into(), field: field.trim().into(), value: value.trim().into() }
        };
        // Each flag is read with all before it, so a few say as much as many.
        let flags = text.lines().take(12).map(flag).collect();
        check(Config::load(&Sources { flags, ..Sources::default() }));
    } else {
        check(Config::of_text("mks.toml", text));
    }
}

fn check(outcome: Result<Config, ConfigError>) {
    match outcome {
        Ok(config) => {
            assert!(config.node.id.0 > 0 && !config.node.data_dir.as_os_str().is_empty());
            assert!(!config.cluster.bootstrap || config.cluster.join.is_empty());
            assert!(config.limits.value_bytes_max > 0 && config.limits.key_bytes_max > 0);
        }
        Err(error) => {
            assert!(!error.problems.is_empty(), "refused for nothing");
            let reasons = error.problems.iter().all(|problem| !problem.reason.trim().is_empty());
            assert!(reasons && !error.to_string().is_empty(), "{error:?}");
        }
    }
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let minimum = "f[node]\nid = 1\ndata_dir = \"d\"\n";
    // Every setting, as the example has it, a section at a time: whole, it would be too long to change much of it.
    let settings = EXAMPLE.lines().map(|line| line.strip_prefix("# ").or(line.strip_prefix('#')).unwrap_or(line));
    let settings: Vec<&str> = settings.filter(|line| line.starts_with('[') || line.contains(" = ")).collect();
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for section in settings.chunk_by(|_, next| !next.starts_with('[')) {
        for fields in section[1..].chunks(6) {
            let own = if section[0] == "[node]" { "f" } else { minimum };
            seeds.push(format!("{own}{}\n{}\n", section[0], fields.join("\n")).into_bytes());
        }
        let name = section[0].trim_matches(['[', ']']);
        let flags: Vec<String> = section[1..].iter().take(6).map(|field| format!("{name}.{field}")).collect();
        seeds.push(format!("Fnode.id = 1\nnode.data_dir = d\n{}\n", flags.join("\n")).into_bytes());
    }
    seeds
}
