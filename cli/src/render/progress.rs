//! A deploy as it happens: redrawn on a terminal, a line per change elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mill_core::api::view::{DeployServiceView, DeployView};
use mill_core::cluster::deploy::DeployState;

/// Shows a deploy.
pub struct Progress {
    number: u64,
    state: String,
    bars: Option<Bars>,
    lines: BTreeMap<String, String>,
    /// Why it failed, once that was printed.
    told: Option<String>,
}

struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    services: BTreeMap<String, ProgressBar>,
}

/// Something that turns while a person waits, on a terminal; nothing elsewhere. Gone when dropped.
pub struct Waiting(Option<ProgressBar>);

impl Waiting {
    /// Says what is waited for.
    pub fn on(what: &str) -> Waiting {
        let bar = super::is_terminal().then(|| spinner("{spinner} {msg}"));
        if let Some(bar) = &bar {
            bar.set_message(what.to_owned());
        }
        Waiting(bar)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

impl Progress {
    /// For the deploy of that number.
    pub fn new(number: u64) -> Progress {
        let bars = super::is_terminal().then(|| {
            let all = MultiProgress::new();
            let head = all.add(spinner("{spinner} {msg}"));
            Bars { all, head, services: BTreeMap::new() }
        });
        Progress { number, state: String::new(), bars, lines: BTreeMap::new(), told: None }
    }

    /// Shows how it is doing now; its end is [`Progress::finish`]'s to tell.
    pub fn show(&mut self, view: &DeployView) {
        if view.state.is_end() {
            return;
        }
        let state = view.state.sentence();
        if let Some(bars) = &mut self.bars {
            return bars.show(self.number, first_line(&state), view);
        }
        if self.state != state {
            // Whoever reads lines has the whole reason where it belongs, and only there.
            println!("deploy #{}: {state}", self.number);
            self.told = reason(&view.state).map(str::to_owned);
            self.state = state;
        }
        for gate in view.gates.iter().filter(|gate| gate.run.is_some()) {
            let line = format!("{} (run {})", gate.state, gate.run.unwrap_or_default());
            let key = format!("task {}", gate.task);
            if self.lines.get(&key) != Some(&line) {
                println!("  {key}: {line}");
                self.lines.insert(key, line);
            }
        }
        for service in &view.services {
            let line = describe(service, &view.state);
            if self.lines.get(service.service.as_str()) != Some(&line) {
                println!("  {}: {line}", service.service);
                self.lines.insert(service.service.to_string(), line);
            }
        }
    }

    /// Takes the moving parts away and says how it ended.
    pub fn finish(self, view: &DeployView) {
        self.clear();
        let told = self.told.as_deref();
        let (sentence, colour) = match &view.state {
            DeployState::RolledBack { reason } if told == Some(reason) => {
                ("went back: everything is as it was before".to_owned(), super::RED)
            }
            DeployState::Succeeded => (view.state.sentence(), super::GREEN),
            DeployState::Resolving
            | DeployState::Rolling
            | DeployState::Removing
            | DeployState::Partial { .. }
            | DeployState::RollingBack { .. }
            | DeployState::RolledBack { .. }
            | DeployState::RollbackStuck { .. } => (view.state.sentence(), super::RED),
        };
        println!("{}", super::painted(&format!("deploy #{} {sentence}", self.number), colour));
    }

    /// Takes the moving parts away.
    pub fn clear(&self) {
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }
}

impl Bars {
    fn show(&mut self, number: u64, state: &str, view: &DeployView) {
        let gates = view.gates.iter().filter(|gate| gate.run.is_some());
        let gates = gates.map(|gate| format!("; task {} {}", gate.task, gate.state));
        let gates: String = gates.collect();
        self.head.set_message(format!("deploy #{number}: {state}{gates}"));
        for service in &view.services {
            let bar = self.services.entry(service.service.to_string()).or_insert_with(|| {
                let bar = self.all.add(spinner("  {bar:16} {prefix:16} {msg}"));
                bar.set_prefix(service.service.to_string());
                bar
            });
            bar.set_length(u64::from(service.wanted.max(1)));
            let full = service.wanted == 0 && service.settled;
            bar.set_position(u64::from(if full { 1 } else { service.ready }));
            bar.set_message(describe(service, &view.state));
        }
    }

    fn clear(&self) {
        self.services.values().for_each(ProgressBar::finish_and_clear);
        self.head.finish_and_clear();
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

fn spinner(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("our templates are valid");
    let bar = ProgressBar::new(1).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(TICK);
    bar
}

fn describe(service: &DeployServiceView, state: &DeployState) -> String {
    let waiting = service.waiting.first().map(|waiting| first_line(waiting));
    if reason(state).is_some() {
        // What is counted is the new version, and that is on its way out.
        return waiting.unwrap_or("going back").to_owned();
    }
    if let Some(failed) = &service.failed {
        let why = waiting.filter(|_| !service.settled);
        return format!("{}: {}", failed.how, why.unwrap_or_else(|| first_line(&failed.reason)));
    }
    if service.wanted == 0 {
        return if service.settled { "removed" } else { "being removed" }.to_owned();
    }
    let count = format!("{}/{} healthy", service.ready, service.wanted);
    match (service.settled, waiting) {
        (true, _) => format!("{count}, done"),
        (false, Some(waiting)) => format!("{count}, {waiting}"),
        (false, None) => count,
    }
}

/// Why it failed, if it did.
fn reason(state: &DeployState) -> Option<&str> {
    match state {
        DeployState::Resolving
        | DeployState::Rolling
        | DeployState::Removing
        | DeployState::Succeeded => None,
        DeployState::Partial { reason }
        | DeployState::RollingBack { reason }
        | DeployState::RolledBack { reason }
        | DeployState::RollbackStuck { reason } => Some(reason),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
