//! Which directories to watch for a file that may be reached over symbolic links.
//!
//! Secrets of Kubernetes and certbot's certificates are replaced by moving a link, which may stand anywhere on the way.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Links that are followed; the kernel follows as many.
const LINKS_MAX: usize = 40;

/// Adds every directory in which a change may change what the path leads to: that of the file, and of each link on the way.
/// Where the way ends before the file, the last directory on it.
pub fn watched(path: &Path, directories: &mut BTreeSet<PathBuf>) {
    let mut walked = PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let mut ahead: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            walked = walked.canonicalize().unwrap_or(walked);
            walked.pop();
            continue;
        }
        let next = walked.join(&name);
        let is_last = ahead.is_empty();
        match next.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() && links < LINKS_MAX => {
                links += 1;
                directories.insert(walked.clone());
                let Ok(target) = next.read_link() else { return };
                if target.is_absolute() {
                    walked = PathBuf::from("/");
                }
                names(&target).collect::<Vec<_>>().into_iter().rev().for_each(|name| ahead.push_front(name));
            }
            Ok(_) if is_last => {
                directories.insert(walked);
                return;
            }
            Ok(_) => walked = next,
            Err(_) => {
                directories.insert(walked);
                return;
            }
        }
    }
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn told(root: &Path, path: &str) -> Vec<String> {
        let mut directories = BTreeSet::new();
        watched(&root.join(path), &mut directories);
        directories.iter().map(|one| one.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn every_link_on_the_way_is_watched_where_it_stands() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["plain", "secret/..1", "live", "archive", "releases/7"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["plain/a.pem", "secret/..1/tls.crt", "archive/chain7.pem", "releases/7/a.pem"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        symlink("..1", root.join("secret/..data")).unwrap();
        symlink("..data/tls.crt", root.join("secret/tls.crt")).unwrap();
        symlink("../archive/chain7.pem", root.join("live/chain.pem")).unwrap();
        symlink(root.join("releases/7"), root.join("current")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(told(&root, "plain/a.pem"), ["plain"]);
        assert_eq!(told(&root, "secret/tls.crt"), ["secret", "secret/..1"]);
        assert_eq!(told(&root, "live/chain.pem"), ["archive", "live"]);
        assert_eq!(told(&root, "current/a.pem"), ["", "releases/7"]);
        assert_eq!(told(&root, "plain/../plain/a.pem"), ["plain"]);
        assert_eq!(told(&root, "plain/missing.pem"), ["plain"]);
        assert_eq!(told(&root, "nowhere/at/all.pem"), [""]);
        assert_eq!(told(&root, "loop"), [""]);
    }
}
