//! Settings of the reference broker that change nothing here (protocol-core §9). They are known so
//! that its env file can be used as it is, and read as strictly as the reference reads them.

use super::{Default, Group, Secrecy, Setting};
use crate::config::parse::whole;

const TEXT: Setting = Setting {
    name: "",
    default: Default::Unset,
    what: "",
    secrecy: Secrecy::Open,
    group: Group::Accepted,
    set: |_, _| Ok(()),
};
const COUNT: Setting =
    Setting { set: |_, text| whole::<u64>(text, 1..=1_000_000_000).map(drop), ..TEXT };
const HIDDEN: Setting = Setting { secrecy: Secrecy::Hidden, ..TEXT };

pub(super) const SETTINGS: &[Setting] = &[
    Setting { name: "EXPECTED_MIGRATION", what: "Migration that readiness waits for", ..TEXT },
    Setting { name: "BROKER_LEGACY_AUTH", what: "Old hook authentication", ..TEXT },
    Setting { name: "BROKER_INVITE_V2_ENABLED", what: "v2 invites", ..TEXT },
    Setting {
        name: "BROKER_ENCRYPTION_KEY",
        what: "Key for stored credentials, 64 hex characters",
        ..HIDDEN
    },
    Setting {
        name: "MINIO_ENDPOINT",
        default: Default::Is("minio:9000"),
        what: "File storage",
        ..TEXT
    },
    Setting {
        name: "MINIO_ACCESS_KEY",
        default: Default::Is("claudemesh"),
        what: "Its user",
        ..HIDDEN
    },
    Setting {
        name: "MINIO_SECRET_KEY",
        default: Default::Is("changeme"),
        what: "Its password",
        ..HIDDEN
    },
    Setting {
        name: "MINIO_USE_SSL",
        default: Default::Is("false"),
        what: "Whether it is asked over TLS",
        ..TEXT
    },
    Setting {
        name: "QDRANT_URL",
        default: Default::Is("http://qdrant:6333"),
        what: "Vector store",
        ..TEXT
    },
    Setting {
        name: "NEO4J_URL",
        default: Default::Is("bolt://neo4j:7687"),
        what: "Graph store",
        ..TEXT
    },
    Setting { name: "NEO4J_USER", default: Default::Is("neo4j"), what: "Its user", ..TEXT },
    Setting {
        name: "NEO4J_PASSWORD",
        default: Default::Is("changeme"),
        what: "Its password",
        ..HIDDEN
    },
    Setting {
        name: "RUNNER_URL",
        default: Default::Is("http://runner:7901"),
        what: "Runner of managed services",
        ..TEXT
    },
    Setting {
        name: "CLAUDEMESH_SERVICES_DIR",
        default: Default::Is("/var/claudemesh/services"),
        what: "Their directory",
        ..TEXT
    },
    Setting {
        name: "MAX_SERVICES_PER_MESH",
        default: Default::Is("20"),
        what: "Managed services in one mesh",
        ..COUNT
    },
    Setting {
        name: "MAX_SERVICE_ZIP_BYTES",
        default: Default::Is("52428800"),
        what: "Bytes of a service's archive",
        ..COUNT
    },
    Setting { name: "CLI_SYNC_SECRET", what: "Secret of login tokens", ..HIDDEN },
    Setting { name: "ANTHROPIC_API_KEY", what: "Key of the bot", ..HIDDEN },
    Setting { name: "BROKER_PUBLIC_URL", what: "Public address of the broker", ..TEXT },
    Setting { name: "BROKER_URL", what: "Address written into web invites", ..TEXT },
    Setting { name: "APP_URL", what: "Address of the web application", ..TEXT },
    Setting { name: "EMAIL_FROM", what: "Sender of mails", ..TEXT },
    Setting { name: "RESEND_API_KEY", what: "Key of a mail service", ..HIDDEN },
    Setting { name: "POSTMARK_API_KEY", what: "Key of a mail service", ..HIDDEN },
    Setting { name: "TELEGRAM_BOT_TOKEN", what: "Token of the Telegram bridge", ..HIDDEN },
    Setting { name: "TELEGRAM_BOT_USERNAME", what: "Name of its bot", ..TEXT },
];
