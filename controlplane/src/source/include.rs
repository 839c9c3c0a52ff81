//! Which files an `include` names: paths, directories, and patterns in the last part.
//!
//! Lists directories; it does not read the files.

use std::path::{Path, PathBuf};

/// Files that one configuration may consist of.
pub const FILES_MAX: usize = 10_000;

/// What one entry of `include` stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Included {
    /// The files, in the order of their names.
    pub files: Vec<PathBuf>,
    /// The directory in which further files may appear.
    pub directory: PathBuf,
}

/// Resolves one entry against the directory of the main file.
pub fn resolve(entry: &str, base: &Path) -> Result<Included, String> {
    let path = base.join(entry);
    let pattern = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let parent = path.parent().unwrap_or(base).to_owned();
    if is_pattern(&parent.to_string_lossy()) {
        return Err("* and ? may stand in the last part of a path only".into());
    }
    if is_pattern(&pattern) {
        let files = listing(&parent, |name| matches(pattern.as_bytes(), name.as_bytes()))?;
        return Ok(Included { files, directory: parent });
    }
    if path.is_dir() {
        return Ok(Included { files: listing(&path, is_document)?, directory: path });
    }
    match path.metadata() {
        Ok(_) => Ok(Included { files: vec![path], directory: parent }),
        Err(error) => Err(format!("cannot include {}: {error}", path.display())),
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

fn is_document(name: &str) -> bool {
    matches!(name.rsplit_once('.'), Some((stem, "yaml" | "yml" | "json")) if !stem.is_empty())
}

/// Regular files of a directory whose names are wanted, hidden ones (editors' own) left out, in the order of their names.
fn listing(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("cannot list {}: {error}", directory.display());
    let mut files = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_wanted = name.to_str().is_some_and(|name| !name.starts_with('.') && wanted(name));
        if is_wanted && entry.path().is_file() {
            files.push(entry.path());
        }
        if files.len() > FILES_MAX {
            return Err(format!("{} holds more than {FILES_MAX} files", directory.display()));
        }
    }
    files.sort();
    Ok(files)
}

/// `*` stands for any bytes, `?` for one. Linear but for the last star, which is where it goes back to.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                star = Some((at_pattern, at_name));
                at_pattern += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => match star {
                Some((star_pattern, star_name)) => {
                    star = Some((star_pattern, star_name + 1));
                    at_pattern = star_pattern + 1;
                    at_name = star_name + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, matched) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", "a.yml", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?.yaml", "a.yaml", true),
            ("?.yaml", "ab.yaml", false),
            ("*", "", true),
            ("**", "x", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), matched, "{pattern} {name}");
        }
    }

    #[test]
    fn directories_patterns_and_files_are_resolved_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("conf.d");
        std::fs::create_dir(&conf).unwrap();
        for name in ["b.yaml", "a.yml", "c.json", ".hidden.yaml", "notes.txt", "d.yaml~"] {
            std::fs::write(conf.join(name), "").unwrap();
        }
        let names = |entry: &str| -> Result<Vec<String>, String> {
            let included = resolve(entry, directory.path())?;
            assert_eq!(included.directory.file_name(), conf.file_name());
            Ok(included.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect())
        };
        assert_eq!(names("conf.d").unwrap(), ["a.yml", "b.yaml", "c.json"]);
        assert_eq!(names("conf.d/*.yaml").unwrap(), ["b.yaml"]);
        assert_eq!(names("conf.d/notes.txt").unwrap(), ["notes.txt"]);
        assert_eq!(names("conf.d/*.toml").unwrap(), Vec::<String>::new());
        assert!(names("conf.d/missing.yaml").unwrap_err().contains("missing.yaml"));
        assert!(names("nowhere/*.yaml").is_err());
        assert!(names("conf.*/a.yml").is_err());
    }
}
