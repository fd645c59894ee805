//! Texts that are shown: nothing in them commands a terminal, forges a line or turns a text around.

use proptest::prelude::*;
use protocol::client::{self, Frame, Verb};
use protocol::names::{is_unsafe, tidied, tidy_group, tidy_target};
use serde_json::json;

#[test]
fn what_commands_a_terminal_or_hides_is_replaced() {
    for (name, shown) in [
        ("Ana", "Ana"),
        ("\u{1b}[31mAna\u{7f}", "\u{fffd}[31mAna\u{fffd}"),
        ("\u{9b}2J\u{85}", "\u{fffd}2J\u{fffd}"),
        ("a\r\nb\tc\u{8}", "a\u{fffd}\u{fffd}b\u{fffd}c\u{fffd}"),
        ("\u{202e}nimda\u{202c}", "\u{fffd}nimda\u{fffd}"),
        ("\u{2066}a\u{2069}\u{200e}\u{200f}\u{61c}", "\u{fffd}a\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        ("a\u{2028}b\u{2029}", "a\u{fffd}b\u{fffd}"),
        ("A\u{200b}na\u{feff}\u{ad}\u{2060}", "A\u{fffd}na\u{fffd}\u{fffd}\u{fffd}"),
        ("\u{e0041}\u{e007f}", "\u{fffd}\u{fffd}"),
        ("\u{3164}\u{115f}\u{1160}\u{ffa0}\u{2800}", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        ("A\u{34f}\u{17b4}\u{180b}\u{e0100}\u{1d173}", "A\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        ("\u{600}\u{6dd}\u{70f}\u{8e2}\u{110bd}", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        // What scripts and emoji are written with stays.
        (
            "می\u{200c}خواهم 👩\u{200d}💻 ☂\u{fe0f} Zoë क्\u{200d}ष",
            "می\u{200c}خواهم 👩\u{200d}💻 ☂\u{fe0f} Zoë क्\u{200d}ष",
        ),
        ("日本 שלום مرحبا", "日本 שלום مرحبا"),
    ] {
        assert_eq!(tidied(name), shown, "{name:?}");
    }
}

/// The table is Unicode's: controls, separators of lines, formats, and what a reader may leave out;
/// without joiners and variation selectors, with the blank of Braille.
#[test]
fn exactly_what_unicode_calls_invisible_is_replaced() {
    let class = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\x{2800}--\x{200C}\x{200D}\x{FE00}-\x{FE0F}]";
    let class = regex_syntax::parse(class).unwrap();
    let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = class.kind()
    else {
        panic!("a class: {class:?}")
    };
    let listed = |c| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&c));
    for c in char::MIN..=char::MAX {
        assert_eq!(is_unsafe(c), listed(c), "{}", c.escape_unicode());
    }
}

#[test]
fn two_ways_to_write_a_group_are_one() {
    let mut name = "Zu\u{308}rich/e\u{301}quipe".to_owned();
    tidy_group(&mut name);
    assert_eq!(name, "Zürich/équipe");
    let (mut target, mut key) = ("@Zu\u{308}rich\u{7}".to_owned(), "#u\u{308}\u{7}".to_owned());
    tidy_target(&mut target);
    tidy_target(&mut key);
    assert_eq!((&*target, &*key), ("@Zürich\u{fffd}", "#u\u{308}\u{7}"));
}

/// Every text of a frame that is shown to others, and none of those that are compared or opaque.
#[test]
fn frames_hold_no_unsafe_text_where_it_is_shown() {
    let bad = "a\u{1b}\u{202e}\nu\u{308}";
    let (safe, group) = ("a\u{fffd}\u{fffd}\u{fffd}u\u{308}", "a\u{fffd}\u{fffd}\u{fffd}ü");
    let parse = |frame: &serde_json::Value| client::parse(&frame.to_string()).unwrap();
    let hello = parse(&json!({"type": "hello", "meshId": bad, "memberId": bad, "pubkey": bad,
        "displayName": bad, "sessionId": bad, "pid": 1, "cwd": bad, "hostname": bad, "channel": bad,
        "model": bad, "peerType": bad, "groups": [{"name": bad, "role": bad}], "timestamp": 1,
        "signature": bad}));
    let Frame::Hello(hello) = hello else { panic!("a hello") };
    let kept = [&hello.mesh_id, &hello.member_id, &hello.pubkey, &hello.signature];
    assert!(kept.into_iter().all(|text| text == bad));
    let profile = hello.profile;
    let shown =
        [profile.display_name, profile.hostname, profile.channel, profile.model, profile.peer_type];
    assert!(shown.iter().all(|text| text.as_deref() == Some(safe)), "{shown:?}");
    assert_eq!((&*profile.session_id, &*profile.cwd), (safe, safe));
    let groups = profile.groups.unwrap();
    assert_eq!((&*groups[0].name, groups[0].role.as_deref()), (group, Some(safe)));

    let send = parse(
        &json!({"type": "send", "id": bad, "targetSpec": format!("@{bad}"), "nonce": bad,
        "ciphertext": bad, "client_message_id": bad, "request_fingerprint": bad, "replyToId": bad}),
    );
    let Frame::Send(send) = send else { panic!("a send") };
    assert_eq!(send.target_spec, format!("@{group}"));
    let kept = [
        Some(send.nonce),
        Some(send.ciphertext),
        send.client_message_id,
        send.request_fingerprint,
        send.reply_to_id,
    ];
    assert!(kept.iter().all(|text| text.as_deref() == Some(bad)), "{kept:?}");
    assert_eq!(send.id, Some(bad.into()));

    let profile = json!({"type": "set_profile", "avatar": bad, "title": bad, "bio": bad, "capabilities": [bad]});
    let asked = [
        json!({"type": "set_summary", "summary": bad}),
        profile,
        json!({"type": "join_group", "name": bad, "role": bad}),
        json!({"type": "leave_group", "name": bad}),
        json!({"type": "kick", "target": bad}),
        json!({"type": "disconnect", "target": bad}),
        json!({"type": "ban", "target": bad}),
        json!({"type": "unban", "target": bad}),
    ];
    for frame in asked {
        let Frame::Request(request) = parse(&frame) else { panic!("a request") };
        let text = serde_json::to_value(&request.verb).unwrap();
        let fields = text.as_object().unwrap().values().map(ToString::to_string);
        assert!(
            fields.into_iter().all(|text| !text.contains("\\u001b") && !text.contains('\u{202e}')),
            "{text}"
        );
    }
    let Frame::Request(left) = parse(&json!({"type": "leave_group", "name": bad})) else {
        panic!()
    };
    assert_eq!(left.verb, Verb::LeaveGroup { name: group.to_owned() });
}

proptest! {
    #[test]
    fn whatever_comes_in_is_safe_once_and_for_all(text in any::<String>()) {
        let shown = tidied(&text);
        prop_assert!(!shown.contains(is_unsafe));
        prop_assert_eq!(shown.chars().count(), text.chars().count());
        prop_assert!(text.contains(is_unsafe) || shown == text);
        prop_assert_eq!(&tidied(&shown), &shown);
        let mut group = text;
        tidy_group(&mut group);
        let once = group.clone();
        tidy_group(&mut group);
        prop_assert_eq!(once, group);
    }

    #[test]
    fn no_control_or_override_is_safe(c in any::<char>()) {
        prop_assert!(!c.is_control() || is_unsafe(c));
        prop_assert!(!c.is_alphanumeric() || !is_unsafe(c));
    }
}
