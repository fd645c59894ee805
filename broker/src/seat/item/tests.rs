use std::sync::Arc;

use protocol::client::{Request, Verb};
use serde_json::{Value, json};

use super::*;
use crate::mesh::io::Command;

/// An item as a later version would encode it: `replace` is what this version does not know.
fn of_later(item: &Item, replace: &str, with: &Value) -> Vec<u8> {
    let bytes = encode(&"mesh".into(), item).unwrap();
    let mut said: Value = rmp_serde::from_slice(&bytes).unwrap();
    *said.pointer_mut(replace).unwrap() = with.clone();
    rmp_serde::to_vec_named(&said).unwrap()
}

fn command() -> Item {
    let command = Command::Request(Request { verb: Verb::ListPeers, req_id: None });
    let conn = ConnId { process: 3, number: 4 };
    let numbered = Numbered { conn, epoch: 5, base: 6, number: 7, command: Arc::new(command) };
    Item::ToOwner(ToOwner::Up { link: 1, number: 2, expects: 9, up: Up::Command(numbered) })
}

#[test]
fn a_command_of_a_later_version_keeps_its_numbers() {
    let verb = json!({"Request": {"verb": {"TurnBack": {"to": [1, null]}}, "req_id": null}});
    let bytes = of_later(&command(), "/1/ToOwner/Up/up/Command/command", &verb);
    let (_, Item::ToOwner(ToOwner::Up { link: 1, number: 2, expects: 9, up })) =
        decode(&bytes).unwrap()
    else {
        panic!("not its place");
    };
    let Up::Command(numbered) = up else { panic!("no command") };
    let ConnId { process, number } = numbered.conn;
    assert_eq!((process, number), (3, 4));
    assert_eq!((numbered.epoch, numbered.base, numbered.number), (5, 6, 7));
    assert_eq!(*numbered.command, Command::Unknown);
}

#[test]
fn what_a_later_version_says_keeps_its_place() {
    let bytes = of_later(&command(), "/1/ToOwner/Up/up", &json!({"Sing": {"song": "la"}}));
    let (_, item) = decode(&bytes).unwrap();
    assert!(matches!(
        item,
        Item::ToOwner(ToOwner::Up { link: 1, number: 2, expects: 9, up: Up::Unknown })
    ));

    let down =
        Item::FromOwner(FromOwner::Down { link: 1, number: 2, expects: 9, down: Down::Reset(4) });
    let bytes = of_later(&down, "/1/FromOwner/Down/down", &json!({"Echo": 1}));
    let (_, item) = decode(&bytes).unwrap();
    assert!(matches!(
        item,
        Item::FromOwner(FromOwner::Down { link: 1, number: 2, expects: 9, down: Down::Unknown })
    ));
}

#[test]
fn what_is_no_item_is_none() {
    let bytes = of_later(&command(), "/1", &json!({"ToAll": {"up": 1}}));
    assert!(decode(&bytes).is_err());
    assert!(decode(b"").is_err());
}
