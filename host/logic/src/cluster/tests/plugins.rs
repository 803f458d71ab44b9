//! The life of plugins, as entries alone: how code gets to the nodes is tested where it is.

use super::*;
use crate::port::{Policy, Role};

fn code(n: u8) -> ResolverHash {
    ResolverHash([n; 32])
}

fn install(plugin: u8, node: u64, version: &str) -> Entry {
    let (plugin, node) = (code(plugin), NodeId(node));
    let role = Role::Resolver;
    Entry::InstallPlugin { plugin, node, name: "biggest".into(), version: version.into(), bytes: 20_000, role }
}

fn install_as(role: Role, plugin: u8, node: u64, version: &str) -> Entry {
    match install(plugin, node, version) {
        Entry::InstallPlugin { plugin, node, name, version, bytes, .. } => {
            Entry::InstallPlugin { plugin, node, name, version, bytes, role }
        }
        other => other,
    }
}

fn hold(plugin: u8, node: u64) -> Entry {
    Entry::HoldPlugin { plugin: code(plugin), node: NodeId(node) }
}

fn remove(plugin: u8) -> Entry {
    Entry::RemovePlugin { plugin: code(plugin) }
}

fn quarantine(plugin: u8, node: u64) -> Entry {
    Entry::QuarantinePlugin { plugin: code(plugin), node: NodeId(node), reason: "it trapped".into() }
}

fn release(plugin: u8) -> Entry {
    Entry::ReleasePlugin { plugin: code(plugin) }
}

fn shadow(plugin: u8, keyspace: &str, on: bool) -> Entry {
    Entry::ShadowPlugin { plugin: code(plugin), keyspace: keyspace.into(), on }
}

fn settled_by(plugin: u8, version: &str) -> Keyspace {
    let resolver = format!("biggest@{version}");
    Keyspace { resolver, resolver_hash: code(plugin), ..super::keyspace("default", 3, 2, 2) }
}

fn alter_to(plugin: u8, version: &str) -> Entry {
    Entry::AlterKeyspace { keyspace: settled_by(plugin, version) }
}

fn apply(state: &mut State, entries: &[Entry]) {
    for entry in entries {
        state.apply(entry).unwrap_or_else(|refusal| panic!("{entry:?}: {refusal}"));
        super::check_invariants(state);
    }
}

/// Three members, and the first version of a plugin that all of them hold.
fn armed() -> State {
    let mut state = formed();
    apply(&mut state, &[install(1, 2, "1.0.0"), hold(1, 1), hold(1, 3)]);
    state
}

fn refused(state: &State, entry: &Entry) -> Refusal {
    let mut changed = state.clone();
    let refusal = changed.apply(entry).expect_err("it is refused");
    assert_eq!(&changed, state, "{entry:?}: the state changed");
    refusal
}

fn policy(state: &State) -> Policy {
    state.keyspace(DEFAULT_KEYSPACE).unwrap().1.policy()
}

pub(super) fn entries() -> impl Strategy<Value = Entry> {
    (0u8..11, 0u8..5, 0u64..6, 0u8..3).prop_map(|(what, plugin, node, version)| {
        let version = ["1.0.0", "1.1.0", "no version"][usize::from(version)];
        match what {
            0 => install(plugin, node, version),
            1..=3 => hold(plugin, node),
            4 => remove(plugin),
            5 => quarantine(plugin, node),
            6 => release(plugin),
            7 => shadow(plugin, DEFAULT_KEYSPACE, true),
            8 => shadow(plugin, DEFAULT_KEYSPACE, node > 2),
            _ => alter_to(plugin, version),
        }
    })
}

/// What holds in every state that entries can lead to.
pub(super) fn check_invariants(state: &State) {
    assert!(state.plugins.len() <= PLUGINS_MAX);
    let mut names: Vec<String> = state.plugins.values().map(Plugin::full_name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "one name, two codes");
    for plugin in state.plugins.values() {
        assert!(plugin.holders.iter().all(|node| state.members.contains_key(node)), "a stranger holds it");
        let waits = !state.plugin_waits(plugin).is_empty();
        assert!(plugin.armed.is_some() || plugin.quarantine.is_some() || waits, "all hold it, and it is not armed");
        assert!(plugin.armed.is_none_or(|epoch| epoch <= state.epoch));
    }
    for (keyspace, candidate) in &state.shadows {
        let (plugin, keyspace) = (&state.plugins[candidate], &state.keyspaces[keyspace]);
        assert!(plugin.armed.is_some() && keyspace.resolver_hash != *candidate && keyspace.role == plugin.role);
    }
    for keyspace in state.keyspaces.values() {
        let plugin = state.plugins.get(&keyspace.resolver_hash);
        assert_eq!(keyspace.quarantined, plugin.is_some_and(|plugin| plugin.quarantine.is_some()));
        assert_eq!(keyspace.policy().resolver == ResolverHash::NOBODY, keyspace.quarantined);
        match plugin {
            Some(plugin) => assert!(plugin.armed.is_some() && keyspace.resolver == plugin.full_name()),
            None => assert!(!keyspace.resolver.contains('@'), "a keyspace is settled by code that is not there"),
        }
    }
}

#[test]
fn a_plugin_is_armed_at_the_epoch_in_which_the_last_member_holds_it() {
    let mut state = formed();
    let mut epochs = vec![state.epoch.0];
    for entry in [install(1, 2, "1.0.0"), hold(1, 1), hold(1, 1), install(1, 2, "1.0.0")] {
        apply(&mut state, &[entry]);
        epochs.push(state.epoch.0);
    }
    let first = epochs[0];
    assert_eq!(epochs, [first, first + 1, first + 1, first + 1, first + 1], "to hold something changes no epoch");
    let plugin = &state.plugins[&code(1)];
    assert_eq!((plugin.armed, state.plugin_waits(plugin)), (None, vec![NodeId(3)]));
    match refused(&state, &alter_to(1, "1.0.0")) {
        Refusal::PluginNotArmed { plugin, waits } => {
            assert_eq!((&plugin[..], waits), ("biggest@1.0.0", vec![NodeId(3)]))
        }
        other => panic!("{other:?}"),
    }
    apply(&mut state, &[hold(1, 3)]);
    assert_eq!(state.plugins[&code(1)].armed, Some(Epoch(first + 2)));
    let (hash, plugin) = state.plugin("biggest@1.0.0").unwrap();
    assert_eq!((hash, plugin.full_name()), (code(1), "biggest@1.0.0".to_string()));
    assert_eq!(state.plugin("biggest").map(|(hash, _)| hash), Some(code(1)), "while there is one of that name");
    let told: Vec<&str> = state.history.iter().map(|event| event.what.as_str()).collect();
    assert!(told.ends_with(&[
        "plugin biggest@1.0.0 was installed through n2",
        "plugin biggest@1.0.0 is armed: all members have it"
    ]));
}

#[test]
fn an_upgrade_and_a_rollback_are_one_entry_each_at_an_epoch_of_their_own() {
    let mut state = armed();
    apply(&mut state, &[install(2, 1, "1.1.0"), hold(2, 2), hold(2, 3)]);
    let mut seen = Vec::new();
    for entry in [alter_to(1, "1.0.0"), alter_to(2, "1.1.0"), alter_to(1, "1.0.0")] {
        apply(&mut state, &[entry]);
        seen.push((state.epoch.0, policy(&state).resolver));
    }
    let first = seen[0].0;
    assert_eq!(seen, [(first, code(1)), (first + 1, code(2)), (first + 2, code(1))]);
    assert_eq!(state.plugin("biggest"), None, "there are two of that name");
}

#[test]
fn a_name_and_a_version_are_one_code_for_ever() {
    let state = armed();
    match refused(&state, &install(2, 1, "1.0.0")) {
        Refusal::PluginExists { plugin, hash } => assert_eq!((&plugin[..], hash), ("biggest@1.0.0", code(1))),
        other => panic!("{other:?}"),
    }
    assert!(matches!(refused(&state, &install(1, 1, "1.0.1")), Refusal::Invalid(_)), "nor is one code two versions");
    assert!(matches!(refused(&state, &alter_to(1, "1.0.1")), Refusal::Invalid(_)));
    for version in ["", "1 0", "1@0", "\n", &"1".repeat(VERSION_BYTES_MAX + 1)] {
        assert!(matches!(refused(&state, &install(3, 1, version)), Refusal::Invalid(_)), "{version:?}");
    }
    assert!(matches!(refused(&state, &install(3, 9, "2")), Refusal::NodeUnknown { .. }));
    assert!(matches!(refused(&State { ring: None, ..state.clone() }, &install(3, 1, "2")), Refusal::Order(_)));
    assert!(matches!(refused(&state, &install(7, 1, "2")), Refusal::Invalid(_)), "what every node has is not uploaded");
    assert!(matches!(refused(&state, &hold(3, 1)), Refusal::PluginUnknown(_)));
    assert!(matches!(refused(&state, &hold(1, 9)), Refusal::NodeUnknown { .. }));
    let causal = Keyspace { name: "carts".into(), causal: true, ..settled_by(1, "1.0.0") };
    assert!(matches!(refused(&state, &Entry::CreateKeyspace { keyspace: causal }), Refusal::Invalid(_)));
}

#[test]
fn code_serves_keyspaces_that_ask_for_what_it_is() {
    let mut state = armed();
    apply(&mut state, &[install_as(Role::Merger, 2, 1, "2.0.0"), hold(2, 2), hold(2, 3)]);
    apply(&mut state, &[install_as(Role::DataType, 3, 1, "3.0.0"), hold(3, 2), hold(3, 3)]);
    let roles = [(1, "1.0.0", Role::Resolver), (2, "2.0.0", Role::Merger), (3, "3.0.0", Role::DataType)];
    for (plugin, version, is) in roles {
        for role in [Role::Resolver, Role::Merger, Role::DataType] {
            let causal = role != Role::Resolver;
            let name = format!("{role:?}-{plugin}").to_lowercase();
            let made = Keyspace { name, causal, role, ttl_ms: 0, ..settled_by(plugin, version) };
            let create = Entry::CreateKeyspace { keyspace: made };
            if role == is {
                apply(&mut state, &[create]);
            } else {
                assert!(matches!(refused(&state, &create), Refusal::Invalid(said) if said.contains(is.name())));
            }
        }
    }
    let plain = Keyspace { name: "plain".into(), role: Role::Merger, ..settled_by(2, "2.0.0") };
    assert!(matches!(refused(&state, &Entry::CreateKeyspace { keyspace: plain }), Refusal::Invalid(_)), "not causal");
    let same = install_as(Role::Resolver, 2, 1, "2.0.0");
    assert!(matches!(refused(&state, &same), Refusal::Invalid(_)), "one code has one role");
}

#[test]
fn a_keyspace_that_keeps_siblings_may_have_them_merged_or_not() {
    let mut state = armed();
    apply(&mut state, &[install_as(Role::Merger, 2, 1, "2.0.0"), hold(2, 2), hold(2, 3)]);
    let keeps = Keyspace { name: "carts".into(), causal: true, ..super::keyspace("carts", 3, 2, 2) };
    let merges = Keyspace { role: Role::Merger, name: "carts".into(), causal: true, ..settled_by(2, "2.0.0") };
    apply(&mut state, &[Entry::CreateKeyspace { keyspace: keeps.clone() }]);
    for keyspace in [&merges, &keeps, &merges] {
        apply(&mut state, &[Entry::AlterKeyspace { keyspace: keyspace.clone() }]);
        assert_eq!(state.keyspace("carts").unwrap().1, keyspace);
    }
    let typed = Keyspace { role: Role::DataType, ..keeps };
    assert!(matches!(refused(&state, &Entry::AlterKeyspace { keyspace: typed }), Refusal::Invalid(_)));
}

#[test]
fn what_a_keyspace_uses_stays_and_what_nobody_uses_goes() {
    let mut state = armed();
    apply(&mut state, &[alter_to(1, "1.0.0")]);
    match refused(&state, &remove(1)) {
        Refusal::PluginUsed { keyspaces, .. } => assert_eq!(keyspaces, ["default"]),
        other => panic!("{other:?}"),
    }
    apply(&mut state, &[alter("default", 3, 2, 2), remove(1)]);
    assert!(state.plugins.is_empty());
    assert!(matches!(refused(&state, &remove(1)), Refusal::PluginUnknown(_)));
    assert!(matches!(refused(&state, &alter_to(1, "1.0.0")), Refusal::PluginUnknown(_)));
    assert_eq!(state.history.back().unwrap().what, "plugin biggest@1.0.0 was removed");
}

#[test]
fn in_quarantine_nobody_is_asked_until_it_ends_or_the_keyspace_gets_another_resolver() {
    let mut state = armed();
    apply(&mut state, &[alter_to(1, "1.0.0")]);
    let epoch = state.epoch;
    apply(&mut state, &[quarantine(1, 3), quarantine(1, 2)]);
    let quarantined = state.plugins[&code(1)].quarantine.clone().unwrap();
    assert_eq!((quarantined.node, quarantined.since, state.epoch), (NodeId(3), Epoch(epoch.0 + 1), Epoch(epoch.0 + 1)));
    assert_eq!(policy(&state).resolver, ResolverHash::NOBODY);

    // Its other settings can be altered meanwhile, and whoever alters them does not decide about the quarantine.
    let altered = Keyspace { r: 1, w: 3, ..settled_by(1, "1.0.0") };
    apply(&mut state, &[Entry::AlterKeyspace { keyspace: altered.clone() }]);
    assert_eq!(policy(&state).resolver, ResolverHash::NOBODY);
    let other = Keyspace { name: "other".into(), ..altered };
    assert!(matches!(refused(&state, &Entry::CreateKeyspace { keyspace: other }), Refusal::PluginQuarantined { .. }));

    apply(&mut state, &[release(1), release(1)]);
    assert_eq!(policy(&state).resolver, code(1));
    apply(&mut state, &[quarantine(1, 1), alter("default", 3, 2, 2)]);
    assert_eq!(policy(&state).resolver, code(7));
    let long = Entry::QuarantinePlugin { plugin: code(1), node: NodeId(1), reason: "x".repeat(REASON_BYTES_MAX + 1) };
    assert!(matches!(refused(&state, &long), Refusal::Invalid(_)));
}

/// What shadows the default keyspace.
fn shadowing(state: &State) -> Option<Shadow> {
    state.shadowed().get(&state.keyspace(DEFAULT_KEYSPACE).unwrap().0).copied()
}

#[test]
fn an_armed_plugin_shadows_a_keyspace_until_somebody_says_so_or_it_settles_it_or_goes() {
    let mut state = armed();
    let epoch = state.epoch;
    apply(&mut state, &[shadow(1, "default", true), shadow(1, "default", true)]);
    assert_eq!(state.epoch, Epoch(epoch.0 + 1), "to say it twice changes nothing");
    assert_eq!(shadowing(&state), Some(Shadow { active: code(7), candidate: code(1), runs: true }));
    assert_eq!((policy(&state).resolver, state.plugin_shadows(code(1))), (code(7), vec!["default".to_string()]));
    assert!(state.plugin_keyspaces(code(1)).is_empty(), "it settles nothing");
    assert_eq!(state.history.back().unwrap().what, "plugin biggest@1.0.0 shadows keyspace \"default\"");

    let ends = [shadow(1, "default", false), alter_to(1, "1.0.0"), remove(1)];
    for end in ends {
        let mut state = state.clone();
        apply(&mut state, std::slice::from_ref(&end));
        assert_eq!(shadowing(&state), None, "{end:?}");
    }
    // Another definition with the same resolver leaves it alone, and another candidate takes its place.
    apply(&mut state, &[alter("default", 3, 1, 3), install(2, 1, "1.1.0"), hold(2, 2), hold(2, 3)]);
    assert!(shadowing(&state).is_some());
    apply(&mut state, &[shadow(2, "default", true)]);
    assert_eq!(shadowing(&state).unwrap().candidate, code(2));
    // Where it does not shadow, it can't end.
    assert!(matches!(refused(&state, &shadow(1, "default", false)), Refusal::Invalid(_)));
}

#[test]
fn in_quarantine_a_candidate_is_not_asked_and_none_is_named() {
    let mut state = armed();
    apply(&mut state, &[shadow(1, "default", true), quarantine(1, 2)]);
    assert!(!shadowing(&state).unwrap().runs);
    assert_eq!(policy(&state).resolver, code(7), "the keyspace notices nothing");
    apply(&mut state, &[release(1)]);
    assert!(shadowing(&state).unwrap().runs);
    // Nor is one asked beside a resolver that is not asked.
    apply(&mut state, &[install(2, 1, "1.1.0"), hold(2, 2), hold(2, 3), alter_to(1, "1.0.0")]);
    apply(&mut state, &[shadow(2, "default", true), quarantine(1, 2)]);
    assert!(!shadowing(&state).unwrap().runs);
    apply(&mut state, &[quarantine(2, 2), shadow(2, "default", false)]);
    assert!(matches!(refused(&state, &shadow(2, "default", true)), Refusal::PluginQuarantined { .. }));
}

#[test]
fn only_armed_resolvers_of_the_kind_of_the_keyspaces_own_shadow_it() {
    let mut state = armed();
    apply(&mut state, &[install(2, 1, "1.1.0")]);
    for (role, plugin) in [(Role::Merger, 3), (Role::Merger, 4), (Role::DataType, 5)] {
        let version = format!("{plugin}");
        apply(&mut state, &[install_as(role, plugin, 1, &version), hold(plugin, 2), hold(plugin, 3)]);
    }
    let made = |name: &str, role, plugin: u8| {
        let keyspace = Keyspace { role, causal: true, name: name.into(), ..settled_by(plugin, &format!("{plugin}")) };
        Entry::CreateKeyspace { keyspace }
    };
    let keeps = Keyspace { causal: true, ..super::keyspace("siblings", 3, 2, 2) };
    apply(&mut state, &[made("carts", Role::Merger, 3), made("counts", Role::DataType, 5)]);
    apply(&mut state, &[Entry::CreateKeyspace { keyspace: keeps }]);
    let invalid = [
        (1, "carts", "picks winners"),
        (1, "siblings", "picks winners"),
        (1, "counts", "has the data type"),
        (3, "carts", "already"),
        (4, "default", "merges for readers"),
        (4, "siblings", "merges for readers"),
        (5, "default", "is a data type"),
    ];
    for (plugin, keyspace, why) in invalid {
        match refused(&state, &shadow(plugin, keyspace, true)) {
            Refusal::Invalid(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(refused(&state, &shadow(2, "default", true)), Refusal::PluginNotArmed { .. }));
    assert!(matches!(refused(&state, &shadow(9, "default", true)), Refusal::PluginUnknown(_)));
    assert!(matches!(refused(&state, &shadow(1, "nowhere", true)), Refusal::KeyspaceUnknown(_)));
    apply(&mut state, &[shadow(4, "carts", true)]);
    let keeps = Keyspace { name: "carts".into(), causal: true, ..super::keyspace("carts", 3, 2, 2) };
    apply(&mut state, &[Entry::AlterKeyspace { keyspace: keeps }]);
    assert!(state.shadows.is_empty(), "beside a resolver that merges nothing it has no place");
}

#[test]
fn whoever_left_or_is_dead_is_not_waited_for_and_who_joins_later_disarms_nothing() {
    let mut state = formed();
    apply(&mut state, &[install(1, 1, "1.0.0"), hold(1, 2)]);
    let replace = Wish::Replace { gone: NodeId(3), by: NodeId(4), dead: true };
    let dead = Entry::Change { wish: replace, seen: None };
    apply(&mut state, &[open(4, 41)]);
    assert_eq!(state.plugin_waits(&state.plugins[&code(1)]), [NodeId(3), NodeId(4)]);
    apply(&mut state, &[hold(1, 4), dead]);
    assert!(state.plugins[&code(1)].armed.is_some());
    apply(&mut state, &[open(5, 51)]);
    let plugin = &state.plugins[&code(1)];
    assert!(plugin.armed.is_some() && state.plugin_waits(plugin) == [NodeId(5)]);
}

#[test]
fn what_was_quarantined_before_it_was_armed_is_armed_by_its_release() {
    let mut state = formed();
    apply(&mut state, &[install(1, 1, "1.0.0"), quarantine(1, 2), hold(1, 2), hold(1, 3)]);
    assert_eq!(state.plugins[&code(1)].armed, None);
    apply(&mut state, &[release(1)]);
    assert!(state.plugins[&code(1)].armed.is_some());
}

#[test]
fn the_number_of_plugins_is_bounded() {
    let mut state = formed();
    for n in 0..PLUGINS_MAX {
        apply(&mut state, &[install(n as u8 + 10, 1, &format!("1.{n}"))]);
    }
    match refused(&state, &install(200, 1, "2.0")) {
        Refusal::Invalid(reason) => assert!(reason.contains("64") && reason.contains("plugin remove"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
