//! The namespaces that are entered before the sample's first process exists. The mount namespace is in `root.rs`.

use super::super::protocol::Request;
use super::super::{Layer, Layers};
use nix::sched::{CloneFlags, unshare};

/// Enters each namespace that is allowed; the pid namespace begins with the next process that is forked.
pub(super) fn enter(request: &Request, layers: &mut Layers) {
    for (layer, flag, detail) in [
        (Layer::NetworkNamespace, CloneFlags::CLONE_NEWNET, "no interface is up"),
        (Layer::IpcNamespace, CloneFlags::CLONE_NEWIPC, "empty"),
        (Layer::UtsNamespace, CloneFlags::CLONE_NEWUTS, "named sandbox"),
        (Layer::PidNamespace, CloneFlags::CLONE_NEWPID, "all processes end with the first"),
    ] {
        if request.without.contains(&layer) {
            layers.miss(layer, "left out as asked");
            continue;
        }
        match unshare(flag) {
            Ok(()) => layers.hold(layer, detail),
            Err(e) => layers.miss(layer, format!("not allowed: {e}")),
        }
    }
    if layers.holds(Layer::UtsNamespace) {
        // The host's name tells about the host; that it cannot be changed is no danger.
        let _ = nix::unistd::sethostname("sandbox");
    }
}
