//! Making meshes and inviting to them.

use protocol::invite::Invite;
use protocol::signature::Keypair;
use serde_json::Value;

use crate::support::Home;

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn invite_of(url: &str) -> Invite {
    let invite = Invite::from_token(url.trim().strip_prefix("ic://join/").unwrap()).unwrap();
    invite.verify().unwrap();
    invite
}

#[test]
fn create_answers_one_json_document_with_usable_keys() {
    let home = Home::new();
    let words = ["mesh", "create", "red", "--name", "Red", "--members", "3", "--json"];
    let mesh = home.run(&words).json();
    assert_eq!(
        keys(&mesh),
        [
            "broker_url",
            "invite_url",
            "members",
            "mesh_id",
            "name",
            "owner_pubkey",
            "owner_secret_key",
            "root_key",
            "slug"
        ]
    );
    assert_eq!((&mesh["slug"], &mesh["name"]), (&"red".into(), &"Red".into()));
    assert_eq!(mesh["root_key"].as_str().unwrap().len(), 43);
    let owner = Keypair::from_secret_hex(mesh["owner_secret_key"].as_str().unwrap()).unwrap();
    assert_eq!(mesh["owner_pubkey"], owner.public_hex());

    let members = mesh["members"].as_array().unwrap();
    let shown: Vec<_> = members
        .iter()
        .map(|m| (m["display_name"].as_str().unwrap(), m["role"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, [("p0", "admin"), ("p1", "member"), ("p2", "member")]);
    for member in members {
        assert_eq!(keys(member), ["display_name", "member_id", "pubkey", "role", "secret_key"]);
        let key = Keypair::from_secret_hex(member["secret_key"].as_str().unwrap()).unwrap();
        assert_eq!(member["pubkey"], key.public_hex());
    }

    let invite = invite_of(mesh["invite_url"].as_str().unwrap());
    assert_eq!(invite.mesh_id, mesh["mesh_id"].as_str().unwrap());
    assert_eq!(invite.owner_pubkey, mesh["owner_pubkey"].as_str().unwrap());
    assert_eq!(invite.mesh_root_key, mesh["root_key"].as_str().unwrap());
    assert_eq!((invite.v, invite.role.as_str()), (1, "member"));
    assert_eq!(invite.broker_url, "ws://127.0.0.1:7900/ws");
    assert_eq!(mesh["broker_url"], "ws://127.0.0.1:7900/ws");
}

#[test]
fn create_shows_people_a_client_configuration_for_each_member() {
    let home = Home::new();
    let words = [
        "--broker-ws-url",
        "wss://b/ws",
        "mesh",
        "create",
        "red",
        "--member",
        "Ana",
        "--member",
        "Ben",
    ];
    let shown = home.run(&words).answer();
    assert!(shown.contains("Ana (admin), Ben (member)"), "{shown}");
    let (_, ana) = shown.split_once("\n# Ana\n").unwrap();
    let (ana, ben) = ana.split_once("\n# Ben\n").unwrap();
    for (config, name) in [(ana, "Ana"), (ben, "Ben")] {
        let config: Value = serde_json::from_str(config).unwrap();
        assert_eq!((&config["version"], &config["displayName"]), (&1.into(), &name.into()));
        let mesh = &config["meshes"][0];
        assert_eq!(
            keys(mesh),
            [
                "brokerUrl",
                "joinedAt",
                "memberId",
                "meshId",
                "name",
                "pubkey",
                "rootKey",
                "secretKey",
                "slug"
            ]
        );
        assert_eq!((&mesh["brokerUrl"], &mesh["name"]), (&"wss://b/ws".into(), &"red".into()));
    }
}

#[test]
fn client_configurations_are_written_for_their_owner_alone() {
    let home = Home::new();
    let words = ["mesh", "create", "red", "--config-dir", "keys/red"];
    let members = ["--member", "Ana", "--member", "../Ben", "--member", "Ana"];
    let shown = home.run(&[&words[..], &members[..]].concat()).answer();
    assert!(!shown.contains("secretKey"), "{shown}");
    for (folder, name) in [("Ana", "Ana"), ("Ben", "../Ben"), ("Ana-2", "Ana")] {
        let path = format!("keys/red/{folder}/config.json");
        assert!(shown.contains(&path), "{path} is missing: {shown}");
        let path = home.path().join(path);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(config["displayName"], name);
        Keypair::from_secret_hex(config["meshes"][0]["secretKey"].as_str().unwrap()).unwrap();
    }
    // Keys that are kept nowhere else are never written over, and then nothing is made.
    let words = ["mesh", "create", "blue", "--config-dir", "keys/red", "--member", "Ana"];
    let told = home.run(&words).refusal(1);
    assert!(told.contains("keys/red/Ana/config.json exists"), "{told}");
    assert!(!home.run(&["mesh", "list"]).answer().contains("blue"));
}

fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_mesh_without_named_members_has_one() {
    let mesh = Home::new().run(&["mesh", "create", "solo", "--json"]).json();
    assert_eq!(mesh["members"].as_array().unwrap().len(), 1);
    assert_eq!(mesh["members"][0]["display_name"], "me");
}

#[test]
fn a_slug_in_use_is_refused() {
    let home = Home::new();
    home.run(&["mesh", "create", "red"]).answer();
    let told = home.run(&["mesh", "create", "red", "--json"]).refusal(1);
    assert!(told.contains("a mesh with the slug red exists already"), "{told}");
    assert_eq!(home.run(&["mesh", "list", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn list_shows_what_was_created() {
    let home = Home::new();
    assert!(home.run(&["mesh", "list"]).answer().contains("No meshes yet"));
    let red = home.run(&["mesh", "create", "red", "--members", "2", "--json"]).json();
    home.run(&["mesh", "create", "blue"]).answer();
    let list = home.run(&["mesh", "list", "--json"]).json();
    assert_eq!((&list[0]["slug"], &list[1]["slug"]), (&"red".into(), &"blue".into()));
    assert_eq!((&list[0]["mesh_id"], &list[0]["members"]), (&red["mesh_id"], &2.into()));
    let text = home.run(&["mesh", "list"]).answer();
    assert!(text.lines().count() == 3 && text.contains("blue"), "{text}");
}

#[test]
fn invites_are_signed_by_the_owner_and_say_what_was_asked() {
    let home = Home::new();
    let mesh = home.run(&["mesh", "create", "red", "--json"]).json();
    let now = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
    )
    .unwrap();
    let id = mesh["mesh_id"].as_str().unwrap();
    for wanted in ["red", id] {
        let words =
            ["mesh", "invite", wanted, "--role", "admin", "--uses", "2", "--expires", "12h"];
        let invite = invite_of(&home.run(&words).answer());
        assert_eq!((invite.mesh_id.as_str(), invite.mesh_slug.as_str()), (id, "red"));
        assert_eq!(invite.role, "admin");
        assert_eq!(invite.owner_pubkey, mesh["owner_pubkey"].as_str().unwrap());
        let lasts = invite.expires_at - now;
        assert!((12 * 3600..12 * 3600 + 60).contains(&lasts), "{lasts}");
    }
    let told = home.run(&["mesh", "invite", "green"]).refusal(1);
    assert!(told.contains("there is no mesh green"), "{told}");
}

#[test]
fn the_data_directory_is_made_and_migrate_says_where() {
    let home = Home::new();
    let told = home.run(&["migrate", "--data-dir", "deep/er"]).answer();
    assert_eq!(told, "The tables are up to date: SQLite at deep/er/claudemesh.sqlite\n");
    assert!(home.path().join("deep/er/claudemesh.sqlite").exists());
}

#[test]
fn invites_of_equal_terms_in_one_second_are_different_invites() {
    let home = Home::new();
    home.run(&["mesh", "create", "red"]).answer();
    let mut links: Vec<_> = (0..5).map(|_| home.run(&["mesh", "invite", "red"]).answer()).collect();
    for link in &links {
        invite_of(link);
    }
    links.sort();
    links.dedup();
    assert_eq!(links.len(), 5);
}
