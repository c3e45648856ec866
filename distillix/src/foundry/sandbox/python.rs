//! Finds the interpreter.

use super::SandboxError;
use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An interpreter, and what it needs to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Python {
    /// The program itself, not a link or a script that finds it.
    pub(super) executable: PathBuf,
    /// The folders of its standard library and packages.
    pub(super) folders: Vec<PathBuf>,
}

/// The oldest 3.x that the driver is written for.
const OLDEST: u32 = 8;

const ASK: &str = "import sys
for line in ('%d.%d.%d' % sys.version_info[:3], sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix):
    print(line)";

impl Python {
    /// `program`, or the first `python3` of `PATH` that works. For root that is one that others can run too, because
    /// samples do not run as root.
    ///
    /// # Errors
    /// None was found; says what is wrong with each.
    pub(super) fn find(program: Option<&Path>) -> Result<Python, SandboxError> {
        let candidates = match program {
            Some(path) => vec![path.to_owned()],
            None => {
                let path = env::var_os("PATH").unwrap_or_default();
                let usual = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from);
                let mut seen = BTreeSet::new();
                let folders = env::split_paths(&path).filter(|p| p.is_absolute()).chain(usual);
                let found = folders.map(|folder| folder.join("python3")).filter(|p| p.is_file());
                found.filter(|path| seen.insert(path.clone())).collect()
            }
        };
        let mut problems = Vec::new();
        for candidate in candidates {
            match Python::ask(&candidate) {
                Ok(python) => return Ok(python),
                Err(problem) => problems.push(format!("{}: {problem}", candidate.display())),
            }
        }
        if problems.is_empty() {
            problems.push("there is no python3 in PATH".to_owned());
        }
        Err(SandboxError::Python(problems.join("; ")))
    }

    /// Asks an interpreter what and where it is.
    fn ask(program: &Path) -> Result<Python, String> {
        let output = Command::new(program)
            .args(["-I", "-S", "-c", ASK])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("cannot be run: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let (Some(version), Some(executable)) = (lines.next(), lines.next()) else {
            return Err("does not answer as Python 3 does".to_owned());
        };
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
        if !version.starts_with("3.") || minor.is_none_or(|minor| minor < OLDEST) {
            return Err(format!("is Python {version}, and 3.{OLDEST} or newer is needed"));
        }
        let executable = PathBuf::from(executable);
        let mut folders: BTreeSet<PathBuf> =
            lines.map(PathBuf::from).filter(|p| p.is_absolute() && p.is_dir()).collect();
        if let Ok(real) = executable.canonicalize()
            && let Some(folder) = real.parent()
        {
            // The standard library lies beside it: <prefix>/bin/python3, <prefix>/lib/python3.N.
            folders.insert(folder.to_owned());
        }
        let home = env::var_os("HOME").map(PathBuf::from);
        if let Some(bad) = folders.iter().find(|f| f.parent().is_none() || Some(*f) == home.as_ref()) {
            return Err(format!("its prefix is {}, which samples must not read as a whole", bad.display()));
        }
        let real = executable.canonicalize().unwrap_or_else(|_| executable.clone());
        let paths = folders.iter().map(PathBuf::as_path).chain([executable.as_path(), &real]);
        if let Some(closed) = closed_to_others(paths) {
            return Err(format!("only root can reach {}, and samples do not run as root", closed.display()));
        }
        Ok(Python { executable, folders: folders.into_iter().collect() })
    }
}

/// The first of `paths` and the folders above them that only its owner may enter, if this process is root, whose samples run as
/// somebody else.
pub(super) fn closed_to_others<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let closed = |p: &Path| std::fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    paths.into_iter().flat_map(Path::ancestors).find(|p| closed(p)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_interpreter_is_an_error_that_names_it() {
        let error = Python::find(Some(Path::new("/bin/true"))).unwrap_err().to_string();
        assert!(error.contains("/bin/true") && error.contains("does not answer"), "{error}");
        let error = Python::find(Some(Path::new("/nowhere/python3"))).unwrap_err().to_string();
        assert!(error.contains("cannot be run"), "{error}");
    }
}
