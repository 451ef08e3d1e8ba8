//! The table itself: every section and field of `mill.toml`. Data, with no decisions of its own.

use serde_json::{Value, json};

use super::route::ROUTE;
use super::{Field, Kind, LEAST_MEMORY, MOST_REPLICAS, Presence, Section};
use crate::config::format;
use crate::config::model::{HealthSpec, Missed, Overlap, StopSpec, UpdateSpec};
use crate::units::{Bytes, Millis};

const WORDS: Kind = Kind::List(&Kind::Text(&format::WORD), true);
const CAPABILITIES: Kind = Kind::List(&Kind::Text(&format::CAPABILITY), false);
const MOUNT_PATHS: Kind = Kind::List(&Kind::Text(&format::MOUNT_PATH), false);
pub(super) const SOME_TIME: Kind = Kind::Duration(Millis(1));
pub(super) const ANY_TIME: Kind = Kind::Duration(Millis(0));

pub(super) const fn field(
    name: &'static str,
    kind: Kind,
    presence: Presence,
    example: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, kind, presence, doc, example }
}

pub(super) const fn required(
    name: &'static str,
    kind: Kind,
    example: &'static str,
    doc: &'static str,
) -> Field {
    field(name, kind, Presence::Required, example, doc)
}

pub(super) const fn optional(
    name: &'static str,
    kind: Kind,
    example: &'static str,
    doc: &'static str,
) -> Field {
    field(name, kind, Presence::Optional, example, doc)
}

const fn table(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    field(name, kind, Presence::Optional, "", doc)
}

fn off() -> Value {
    json!(false)
}

pub(super) const OFF: Presence = Presence::Default(off);

/// The top of the file.
pub static ROOT: Section = Section {
    path: "",
    doc: "One file describes one project; several files are joined, and a key may stand in only \
          one of them.",
    fields: &[
        field(
            "project",
            Kind::Text(&format::NAME),
            Presence::Default(|| json!("main")),
            "\"shop\"",
            "The project. A deploy adds, changes and removes services of its own project only.",
        ),
        table("cluster", Kind::Table(&CLUSTER), "Cluster-wide settings that a deploy may change."),
        table("service", Kind::Named(&SERVICE), "Long-running workloads, by name."),
        table("task", Kind::Named(&TASK), "Work that runs to completion, by name."),
    ],
};

static CLUSTER: Section = Section {
    path: "cluster",
    doc: "Cluster-wide settings. What is not written stays as it is.",
    fields: &[
        optional(
            "acme_email",
            Kind::Text(&format::EMAIL),
            "\"ops@example.com\"",
            "Contact address for the certificate authority.",
        ),
        optional(
            "acme_directory",
            Kind::Text(&format::DIRECTORY),
            "\"https://acme.example.com/directory\"",
            "Where certificates are ordered: the directory of an ACME authority. Let's Encrypt's if \
             it is not written. Ordering means to agree to the authority's terms.",
        ),
        optional(
            "acme_root",
            Kind::Text(&format::CERTIFICATE),
            "\"-----BEGIN CERTIFICATE-----\\n...\"",
            "PEM of the authority that the directory's own certificate is from, for a private one.",
        ),
        optional(
            "trusted_proxies",
            Kind::List(&Kind::Text(&format::NETWORK), false),
            "[\"10.0.0.0/8\"]",
            "Networks of load balancers in front of the cluster. What they say in `X-Forwarded-*` of \
             their clients is believed, and they may have more connections than others. An empty \
             array: nobody, as at first.",
        ),
    ],
};

const IMAGE: Field = required(
    "image",
    Kind::Text(&format::IMAGE),
    "\"registry.example.com/shop/web:3.1\"",
    "The image. A deploy pins its tag to a digest, so that every replica runs the same bytes.",
);
const CPU: Field = optional(
    "cpu",
    Kind::Cores,
    "0.5",
    "Cores: what is set aside and the ceiling. Without it there is no ceiling and 0.1 is set \
     aside.",
);
const MEMORY: Field = optional(
    "memory",
    Kind::Size(LEAST_MEMORY),
    "\"512MiB\"",
    "Memory: what is set aside and the ceiling. Without it there is no ceiling and 64MiB are set \
     aside.",
);
const COMMAND: Field = optional(
    "command",
    Kind::List(&Kind::Interpolated, true),
    "[\"./web\", \"--verbose\"]",
    "Program and arguments in place of the image's. Interpolated.",
);
const ENV: Field = optional(
    "env",
    Kind::Map(&format::ENV_NAME, &Kind::Interpolated),
    "{ LOG_LEVEL = \"info\" }",
    "Environment variables, besides `PORT` and `MILL_*` that Mill sets. Interpolated.",
);
const SECRET_FILES: Field = optional(
    "secret_files",
    Kind::Map(&format::MOUNT_PATH, &Kind::Interpolated),
    "{ \"/run/tls.key\" = \"${secret(shop.tls-key)}\" }",
    "Files in memory: path in the container, and content. Interpolated.",
);
const USER: Field = optional(
    "user",
    Kind::Text(&format::USER),
    "\"1000:1000\"",
    "User, and group after a colon, by name or number. Without it, the image's own.",
);
const READ_ONLY: Field =
    field("read_only", Kind::Boolean, OFF, "true", "Mount the root file system read-only.");
const CAP_ADD: Field = optional(
    "cap_add",
    CAPABILITIES,
    "[\"NET_ADMIN\"]",
    "Linux capabilities besides the few that are kept by default.",
);
const CAP_DROP: Field = optional(
    "cap_drop",
    CAPABILITIES,
    "[\"ALL\"]",
    "Linux capabilities to take away from those kept by default; `ALL` takes all.",
);
const TMPFS: Field = optional(
    "tmpfs",
    MOUNT_PATHS,
    "[\"/tmp\"]",
    "Paths in the container that are writable memory.",
);

static SERVICE: Section = Section {
    path: "service.NAME",
    doc: "A long-running workload: replicas that are health-checked and rolling-updated.",
    fields: &[
        IMAGE,
        optional(
            "port",
            Kind::Integer(1, 65535),
            "8080",
            "The port that callers use. The container itself listens on `$PORT`, unless \
             `fixed_port`. Without it, nobody calls the service: a worker.",
        ),
        field(
            "fixed_port",
            Kind::Boolean,
            OFF,
            "true",
            "The image cannot listen on `$PORT`: the container owns `port` on its node.",
        ),
        field(
            "replicas",
            Kind::Replicas,
            Presence::Default(|| json!(1)),
            "3",
            "How many copies run; \"each-node\" for one on every node that `place.require` allows.",
        ),
        optional(
            "before",
            Kind::Text(&format::NAME),
            "\"migrate\"",
            "A task that must succeed first, once per deploy.",
        ),
        CPU,
        MEMORY,
        COMMAND,
        ENV,
        SECRET_FILES,
        USER,
        READ_ONLY,
        CAP_ADD,
        CAP_DROP,
        TMPFS,
        table("health", Kind::Table(&HEALTH), "How its health is known."),
        table("update", Kind::Table(&UPDATE), "How replicas are replaced."),
        table("stop", Kind::Table(&STOP), "How a container is asked to stop."),
        table("route", Kind::Tables(&ROUTE), "Where requests from outside come in."),
        table("volume", Kind::Tables(&VOLUME), "Storage mounted into the container."),
        table("place", Kind::Table(&SERVICE_PLACE), "Which nodes may and should run it."),
    ],
};

static HEALTH: Section = Section {
    path: "service.NAME.health",
    doc: "One of `path`, `tcp` and `command`. Without this table, a container that runs is \
          healthy.",
    fields: &[
        optional(
            "path",
            Kind::Text(&format::HTTP_PATH),
            "\"/healthz\"",
            "Healthy when `GET` of this path on the container's port answers 200 to 399.",
        ),
        field(
            "tcp",
            Kind::Boolean,
            OFF,
            "true",
            "Healthy when the container's port accepts a connection.",
        ),
        optional(
            "command",
            WORDS,
            "[\"pg_isready\", \"-q\"]",
            "Healthy when this command, run in the container, exits with 0.",
        ),
        field(
            "interval",
            SOME_TIME,
            Presence::Default(|| json!(HealthSpec::default().interval.to_string())),
            "\"5s\"",
            "From the end of one probe to the start of the next.",
        ),
        field(
            "timeout",
            SOME_TIME,
            Presence::Default(|| json!(HealthSpec::default().timeout.to_string())),
            "\"2s\"",
            "A probe that takes longer has failed.",
        ),
        field(
            "healthy_after",
            Kind::Integer(1, 100),
            Presence::Default(|| json!(HealthSpec::default().healthy_after)),
            "2",
            "Passing probes in a row before it is healthy.",
        ),
        field(
            "unhealthy_after",
            Kind::Integer(1, 100),
            Presence::Default(|| json!(HealthSpec::default().unhealthy_after)),
            "3",
            "Failing probes in a row before it is unhealthy.",
        ),
        field(
            "start_period",
            ANY_TIME,
            Presence::Default(|| json!(HealthSpec::default().start_period.to_string())),
            "\"1m\"",
            "Failing probes do not count for this long after a start.",
        ),
    ],
};

static UPDATE: Section = Section {
    path: "service.NAME.update",
    doc: "How replicas are replaced when the service changes.",
    fields: &[
        field(
            "parallel",
            Kind::Integer(1, MOST_REPLICAS),
            Presence::Default(|| json!(UpdateSpec::default().parallel)),
            "2",
            "Replicas replaced at the same time.",
        ),
        field(
            "canary",
            Kind::Integer(0, MOST_REPLICAS),
            Presence::Default(|| json!(UpdateSpec::default().canary)),
            "1",
            "New replicas that are watched alone before the rest follow; fewer than `replicas`.",
        ),
        field(
            "order",
            Kind::OneOf(&["start-first", "stop-first"]),
            Presence::Default(|| json!(UpdateSpec::default().order)),
            "\"stop-first\"",
            "Which comes first. With a persistent volume, or a fixed port on each node, it is \
             always \"stop-first\".",
        ),
        field(
            "healthy_for",
            ANY_TIME,
            Presence::Default(|| json!(UpdateSpec::default().healthy_for.to_string())),
            "\"10s\"",
            "How long a new replica stays healthy before it counts.",
        ),
        field(
            "deadline",
            SOME_TIME,
            Presence::Default(|| json!(UpdateSpec::default().deadline.to_string())),
            "\"10m\"",
            "A service that is not updated by then has failed; longer than `healthy_for`.",
        ),
    ],
};

const SIGNAL: Field = field(
    "signal",
    Kind::Text(&format::SIGNAL),
    Presence::Default(|| json!(StopSpec::default().signal)),
    "\"SIGINT\"",
    "The signal that asks the container to stop.",
);
const GRACE: Field = field(
    "grace",
    ANY_TIME,
    Presence::Default(|| json!(StopSpec::default().grace.to_string())),
    "\"60s\"",
    "From the signal until SIGKILL.",
);

static STOP: Section = Section {
    path: "service.NAME.stop",
    doc: "How a container is asked to stop.",
    fields: &[
        SIGNAL,
        GRACE,
        field(
            "drain",
            ANY_TIME,
            Presence::Default(|| json!(StopSpec::default().drain.to_string())),
            "\"30s\"",
            "How long requests in flight may finish before the signal.",
        ),
        optional(
            "pre_stop",
            WORDS,
            "[\"./web\", \"quiesce\"]",
            "A command run in the container before the signal.",
        ),
    ],
};

static VOLUME: Section = Section {
    path: "service.NAME.volume",
    doc: "Storage: persistent with a `size`, or `ephemeral`.",
    fields: &[
        required(
            "name",
            Kind::Text(&format::NAME),
            "\"pg-data\"",
            "Its name, unique in the cluster.",
        ),
        required(
            "path",
            Kind::Text(&format::MOUNT_PATH),
            "\"/var/lib/postgresql/data\"",
            "Where it is mounted in the container.",
        ),
        optional(
            "size",
            Kind::Size(Bytes(1 << 20)),
            "\"20GiB\"",
            "Its size. A persistent volume may grow, never shrink; of an ephemeral one it is the \
             limit, where the file system can enforce one.",
        ),
        field(
            "ephemeral",
            Kind::Boolean,
            OFF,
            "true",
            "A directory on the node, lost when the replica moves.",
        ),
    ],
};

const LABELS: Kind = Kind::Map(&format::LABEL, &Kind::Text(&format::LABEL_VALUE));
const REQUIRE: Field =
    optional("require", LABELS, "{ disk = \"ssd\" }", "Labels that a node must have.");
const PREFER: Field =
    optional("prefer", LABELS, "{ zone = \"a\" }", "Labels that a node had better have.");
const SPREAD: Field = optional(
    "spread",
    Kind::Text(&format::LABEL),
    "\"zone\"",
    "A label over whose values replicas are spread, besides over nodes.",
);

static SERVICE_PLACE: Section = Section {
    path: "service.NAME.place",
    doc: "Which nodes may and should run it, by their labels.",
    fields: &[REQUIRE, PREFER, SPREAD],
};

static TASK: Section = Section {
    path: "task.NAME",
    doc: "A template for work that runs to completion or to its timeout; a run is never restarted.",
    fields: &[
        IMAGE,
        required(
            "timeout",
            SOME_TIME,
            "\"10m\"",
            "A run that takes longer is killed and has failed.",
        ),
        optional(
            "schedule",
            Kind::Text(&format::SCHEDULE),
            "\"0 3 * * *\"",
            "When it runs by itself: minute, hour, day of month, month, day of week, as in cron.",
        ),
        optional(
            "time_zone",
            Kind::Text(&format::TIME_ZONE),
            "\"Europe/Berlin\"",
            "The zone in which `schedule` is meant; UTC without it.",
        ),
        field(
            "overlap",
            Kind::OneOf(&["skip", "allow", "replace"]),
            Presence::Default(|| json!(Overlap::default())),
            "\"replace\"",
            "What happens when the schedule is due and its last run is not over: nothing is run, \
             it is run all the same, or the last one is killed.",
        ),
        field(
            "missed",
            Kind::OneOf(&["run", "skip"]),
            Presence::Default(|| json!(Missed::default())),
            "\"skip\"",
            "What happens when nobody could serve the schedule in time: it is run once, as soon as \
             it can be, or not until it is due again.",
        ),
        field(
            "concurrency",
            Kind::Integer(1, 100),
            Presence::Default(|| json!(1)),
            "3",
            "How many runs may be under way at a time; others wait in line.",
        ),
        COMMAND,
        ENV,
        SECRET_FILES,
        CPU,
        MEMORY,
        USER,
        READ_ONLY,
        CAP_ADD,
        CAP_DROP,
        TMPFS,
        table("stop", Kind::Table(&TASK_STOP), "How a run is asked to stop."),
        table("place", Kind::Table(&TASK_PLACE), "Which nodes may and should run it."),
    ],
};

static TASK_STOP: Section = Section {
    path: "task.NAME.stop",
    doc: "How a run is asked to stop when it is killed.",
    fields: &[SIGNAL, GRACE],
};

static TASK_PLACE: Section = Section {
    path: "task.NAME.place",
    doc: "Which nodes may and should run it, by their labels.",
    fields: &[REQUIRE, PREFER],
};
