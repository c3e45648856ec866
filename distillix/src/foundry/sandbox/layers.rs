//! The layers of the sandbox, which of them hold, and whether those suffice.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One of the things that stand between a sample and the machine.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Users and capabilities of its own.
    UserNamespace,
    /// Processes of its own: no other is visible, and all end with the first.
    PidNamespace,
    /// Files of its own: system folders and the interpreter read-only, an empty `/tmp`, nothing else.
    MountNamespace,
    /// A network of its own, without an interface that is up.
    NetworkNamespace,
    /// System V objects and message queues of its own.
    IpcNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// A user that is not root, and no capability.
    UnprivilegedUser,
    /// `no_new_privs`: no program gives privileges.
    NoNewPrivileges,
    /// Files by path, TCP, signals and abstract sockets, by the kernel's Landlock.
    Landlock,
    /// A list of the system calls that are allowed.
    Seccomp,
    /// Memory and processes of the whole tree, by a control group.
    Cgroup,
    /// Memory, processor time, processes, files and file sizes of each process.
    ResourceLimits,
}

impl Layer {
    /// Every layer.
    pub const ALL: [Layer; 12] = [
        Layer::UserNamespace,
        Layer::PidNamespace,
        Layer::MountNamespace,
        Layer::NetworkNamespace,
        Layer::IpcNamespace,
        Layer::UtsNamespace,
        Layer::UnprivilegedUser,
        Layer::NoNewPrivileges,
        Layer::Landlock,
        Layer::Seccomp,
        Layer::Cgroup,
        Layer::ResourceLimits,
    ];

    /// The name, as on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Layer::UserNamespace => "user-namespace",
            Layer::PidNamespace => "pid-namespace",
            Layer::MountNamespace => "mount-namespace",
            Layer::NetworkNamespace => "network-namespace",
            Layer::IpcNamespace => "ipc-namespace",
            Layer::UtsNamespace => "uts-namespace",
            Layer::UnprivilegedUser => "unprivileged-user",
            Layer::NoNewPrivileges => "no-new-privileges",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
            Layer::Cgroup => "cgroup",
            Layer::ResourceLimits => "resource-limits",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a layer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerState {
    /// Which.
    pub layer: Layer,
    /// Whether it holds.
    pub holds: bool,
    /// What it does here, or why it is missing.
    pub detail: String,
}

/// The state of the layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers(Vec<LayerState>);

impl Layers {
    /// Records that `layer` holds.
    #[cfg(target_os = "linux")]
    pub(super) fn hold(&mut self, layer: Layer, detail: impl Into<String>) {
        self.set(layer, true, detail.into());
    }

    /// Records that `layer` does not hold, and why.
    #[cfg(target_os = "linux")]
    pub(super) fn miss(&mut self, layer: Layer, why: impl fmt::Display) {
        self.set(layer, false, why.to_string());
    }

    #[cfg(target_os = "linux")]
    fn set(&mut self, layer: Layer, holds: bool, detail: String) {
        self.0.retain(|state| state.layer != layer);
        self.0.push(LayerState { layer, holds, detail });
        self.0.sort_by_key(|state| state.layer);
    }

    /// Whether `layer` holds.
    pub fn holds(&self, layer: Layer) -> bool {
        self.0.iter().any(|state| state.layer == layer && state.holds)
    }

    /// Every layer that was tried.
    pub fn states(&self) -> &[LayerState] {
        &self.0
    }

    /// The layers that do not hold.
    pub fn missing(&self) -> impl Iterator<Item = &LayerState> {
        self.0.iter().filter(|state| !state.holds)
    }

    /// What the layers that hold do not ensure, in words; empty if a sample is confined.
    ///
    /// Seccomp refuses every network socket, `ptrace`, mounts and new namespaces, and, where nothing else separates the
    /// processes, every signal to another; so namespaces add depth but are not needed for those.
    pub fn lacking(&self) -> Vec<&'static str> {
        let mut lacking = Vec::new();
        let mut need = |ensured: bool, what| {
            if !ensured {
                lacking.push(what);
            }
        };
        let holds = |layer| self.holds(layer);
        need(
            holds(Layer::MountNamespace) || holds(Layer::Landlock),
            "files are open to it (needs a mount namespace or Landlock)",
        );
        need(
            holds(Layer::Seccomp) && holds(Layer::NoNewPrivileges),
            "system calls are open to it (needs seccomp and no_new_privs)",
        );
        need(holds(Layer::UnprivilegedUser), "it would run with privileges (needs an unprivileged user)");
        need(
            holds(Layer::ResourceLimits),
            "memory, time and processes are open to it (needs resource limits)",
        );
        lacking
    }

    /// The layers that do not hold, each with its reason, on one line.
    #[cfg(target_os = "linux")]
    pub(super) fn missing_in_words(&self) -> String {
        let words: Vec<_> = self.missing().map(|s| format!("{} ({})", s.layer, s.detail)).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(", ") }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn all_but(missing: &[Layer]) -> Layers {
        let mut layers = Layers::default();
        for layer in Layer::ALL {
            if missing.contains(&layer) { layers.miss(layer, "test") } else { layers.hold(layer, "test") }
        }
        layers
    }

    #[test]
    fn one_of_two_file_layers_suffices() {
        assert!(all_but(&[]).lacking().is_empty());
        assert!(all_but(&[Layer::MountNamespace, Layer::UserNamespace]).lacking().is_empty());
        assert!(all_but(&[Layer::Landlock]).lacking().is_empty());
        assert_eq!(all_but(&[Layer::MountNamespace, Layer::Landlock]).lacking().len(), 1);
    }

    #[test]
    fn some_layers_are_needed() {
        for layer in [Layer::Seccomp, Layer::NoNewPrivileges, Layer::UnprivilegedUser, Layer::ResourceLimits]
        {
            assert_eq!(all_but(&[layer]).lacking().len(), 1, "{layer}");
        }
        assert_eq!(Layers::default().lacking().len(), 4);
    }

    #[test]
    fn names_agree_with_records_and_the_command_line() {
        use clap::ValueEnum;
        for layer in Layer::ALL {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.name());
            assert_eq!(layer.to_possible_value().unwrap().get_name(), layer.name());
        }
    }
}
