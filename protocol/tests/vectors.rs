//! The crate against libsodium: what it signs, we verify and sign identically; what it refuses, we refuse.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use protocol::canonical;
use protocol::invite::Invite;
use protocol::signature::{self, Keypair, Refused};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    keys: Vec<Key>,
    signed: Vec<Signed>,
    invites: Vec<Invited>,
    verdicts: Vec<Case>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
    seed: String,
    public: String,
    secret: String,
}

#[derive(Deserialize)]
struct Signed {
    purpose: String,
    signer: String,
    fields: Fields,
    canonical: String,
    signature: String,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    mesh: String,
    #[serde(default)]
    member: String,
    timestamp: i64,
}

#[derive(Deserialize)]
struct Invited {
    signer: String,
    invite: Invite,
    canonical: String,
    token: String,
}

#[derive(Deserialize)]
struct Case {
    why: String,
    pubkey: String,
    signature: String,
    message: String,
    verdict: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/vectors.json")).unwrap()
}

impl Vectors {
    fn pair(&self, name: &str) -> Keypair {
        let key = self.keys.iter().find(|key| key.name == name).unwrap();
        Keypair::from_secret_hex(&key.secret).unwrap()
    }
}

#[test]
fn a_seed_grows_the_keys_libsodium_grows() {
    for key in vectors().keys {
        let pair = Keypair::from_seed(&hex::decode(&key.seed).unwrap().try_into().unwrap());
        assert_eq!(pair.public_hex(), key.public);
        assert_eq!(pair.secret_hex(), key.secret);
        assert_eq!(
            Keypair::from_secret_hex(&key.secret.to_uppercase()).unwrap().public_hex(),
            key.public
        );
    }
}

#[test]
fn a_secret_key_of_mixed_halves_is_refused() {
    let all = vectors();
    let [first, second, ..] = all.keys.as_slice() else { panic!("two keys") };
    let mixed = format!("{}{}", &first.secret[..64], &second.secret[64..]);
    for damaged in [mixed.as_str(), &first.secret[2..], &first.seed, "", &"z".repeat(128)] {
        assert_eq!(Keypair::from_secret_hex(damaged).err(), Some(Refused::Malformed), "{damaged}");
    }
}

#[test]
fn canonical_texts_and_signatures_are_libsodiums() {
    let all = vectors();
    let (member, session) = (all.pair("member").public_hex(), all.pair("session").public_hex());
    for Signed { purpose, signer, fields, canonical, signature } in &all.signed {
        let ours = match purpose.as_str() {
            "hello" => canonical::hello(&fields.mesh, &fields.member, &member, fields.timestamp),
            "attestation" => canonical::session_attestation(&member, &session, fields.timestamp),
            "session_hello" => {
                canonical::session_hello(&fields.mesh, &member, &session, fields.timestamp)
            }
            other => panic!("unknown purpose {other}"),
        };
        let signer = all.pair(signer);
        assert_eq!(&ours, canonical);
        assert_eq!(signature::verify(&signer.public_hex(), signature, &ours), Ok(()));
        assert_eq!(&signer.sign(&ours), signature);
    }
}

#[test]
fn invites_are_written_and_read_as_libsodium_clients_do() {
    let all = vectors();
    for Invited { signer, invite, canonical, token } in &all.invites {
        assert_eq!(&invite.canonical(), canonical);
        assert_eq!(invite.verify(), Ok(()));
        assert_eq!(&invite.token(), token);
        assert_eq!(Invite::from_token(token).as_ref(), Some(invite));
        assert_eq!(Invite::from_token(&format!("{token}==")).as_ref(), Some(invite));

        let unsigned = Invite { signature: String::new(), ..invite.clone() };
        assert_eq!(unsigned.verify(), Err(Refused::Malformed));
        assert_eq!(&unsigned.signed(&all.pair(signer)), invite);
    }
}

#[test]
fn an_invite_changed_in_any_value_no_longer_verifies() {
    let Invited { invite, .. } = vectors().invites.remove(0);
    let edits: [fn(&mut Invite); 7] = [
        |invite| invite.v = 2,
        |invite| invite.mesh_id.push('0'),
        |invite| invite.mesh_slug.push('0'),
        |invite| invite.broker_url.push('0'),
        |invite| invite.expires_at += 1,
        |invite| invite.mesh_root_key.push('0'),
        |invite| invite.role = "admin".into(),
    ];
    for edit in edits {
        let mut changed = invite.clone();
        edit(&mut changed);
        assert_eq!(changed.verify(), Err(Refused::Bad), "{}", changed.canonical());
    }
}

#[test]
fn a_damaged_token_is_none() {
    let Invited { token, .. } = vectors().invites.remove(0);
    let not_base64 = format!("{}!", &token[1..]);
    for damaged in [&token[4..], &token[..token.len() - 4], not_base64.as_str(), "", "bnVsbA"] {
        assert_eq!(Invite::from_token(damaged), None, "{damaged}");
    }
}

#[test]
fn verdicts_are_libsodiums() {
    for Case { why, pubkey, signature, message, verdict } in vectors().verdicts {
        let expected = match verdict.as_str() {
            "good" => Ok(()),
            "bad" => Err(Refused::Bad),
            "malformed" => Err(Refused::Malformed),
            other => panic!("unknown verdict {other}"),
        };
        assert_eq!(signature::verify(&pubkey, &signature, &message), expected, "{why}");
    }
}
