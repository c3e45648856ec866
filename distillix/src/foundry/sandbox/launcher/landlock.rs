//! Landlock: by path what may be read, run and written; no TCP; no signal and no abstract socket across its border.

use super::super::protocol::Request;
use super::root::DEVICES;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::path::PathBuf;

/// The newest version that is asked for. Kernels take what they know of it.
const NEWEST: ABI = ABI::V10;

/// What the kernel enforces.
pub(super) struct Enforced {
    /// In words.
    pub(super) detail: String,
    /// Whether signals to processes outside are refused.
    pub(super) signals: bool,
}

/// Confines this process and its children. `private` are the folders that the sample may write to.
pub(super) fn restrict(request: &Request, private: &[PathBuf]) -> Result<Enforced, String> {
    let status = rules(request, private).map_err(|e| e.to_string())?;
    let abi = match status.landlock {
        LandlockStatus::NotEnabled => return Err("the kernel has it, but it was not enabled at boot".into()),
        LandlockStatus::NotImplemented => return Err("the kernel does not have it".into()),
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("the kernel did not enforce it".into());
    }
    let mut what = vec!["files"];
    if abi >= ABI::V4 {
        what.push("TCP");
    }
    let signals = abi >= ABI::V6;
    if signals {
        what.push("signals, abstract sockets");
    }
    Ok(Enforced { detail: format!("version {}: {}", abi as i32, what.join(", ")), signals })
}

fn rules(request: &Request, private: &[PathBuf]) -> Result<landlock::RestrictionStatus, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let write = all
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::IoctlDev
            | AccessFs::ResolveUnix);
    let device: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile;
    Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&request.readable, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .add_rules(path_beneath_rules(private, write))?
        .restrict_self()
}
