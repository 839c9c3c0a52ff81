//! The configuration's source: a YAML or JSON file, and the files that it includes, read into a [`Config`].
//!
//! Every error at once, each with its file, line and column. What the fields mean together is decided in proto's
//! snapshot; this module finds the place that a [`Problem`] speaks of.

mod include;
mod substitute;
mod tree;
mod validate;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proto::snapshot::{Config, Problem};
use serde::Serialize;

pub use substitute::Lookup;
use tree::{Entry, Node, Place, Value};
use validate::Form;

/// Bytes of one file: room for the largest snapshot, and an answer to `include: /dev/zero`.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Diagnostics that are told; a file that is something else entirely need not fill a terminal.
const DIAGNOSTICS_MAX: usize = 200;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file, as the operator named it.
    pub file: String,
    /// From 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// From 1; 0 where the file as a whole is meant.
    pub column: u64,
    /// JSON Pointer of the value within its file; empty for the document.
    pub place: String,
    /// A sentence. Holds no value from the environment and no neighbouring line.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message),
        }
    }
}

/// What reading a source found.
#[derive(Debug)]
pub struct Reading {
    /// Every file that was read or should have been, the main file first.
    pub files: Vec<PathBuf>,
    /// Every directory in which a change may change the configuration.
    pub directories: BTreeSet<PathBuf>,
    /// The document, or everything that is wrong with its form.
    pub outcome: Result<Document, Vec<Diagnostic>>,
}

/// A document whose form is right, with the places of everything in it.
#[derive(Debug)]
pub struct Document {
    /// What it says.
    pub config: Config,
    names: Vec<String>,
    tree: Node,
}

impl Document {
    /// What a relative path at this place (a JSON Pointer) is relative to: the directory of the file in which it stands.
    pub fn directory_of(&self, place: &str) -> PathBuf {
        directory(Path::new(self.file_of(place)))
    }

    /// The file in which this place is, as the operator named it.
    pub fn file_of(&self, place: &str) -> &str {
        self.names.get(self.tree.nearest(place).place.file).map_or("", String::as_str)
    }

    /// The file and line of this place: `gateway.yaml:12`.
    pub fn place_of(&self, place: &str) -> String {
        format!("{}:{}", self.file_of(place), self.tree.nearest(place).place.line)
    }

    /// Puts what [`Snapshot::check`](proto::snapshot::Snapshot::check) says to where it stands in the files.
    pub fn diagnose(&self, problems: &[Problem]) -> Vec<Diagnostic> {
        let diagnostic = |problem: &Problem| {
            let place = self.tree.nearest(&problem.place).place;
            diagnostic(&self.names, place, &problem.place, problem.message.clone())
        };
        in_order(problems.iter().map(diagnostic).collect(), &self.names)
    }
}

/// Reads the file, what it includes, and the environment.
pub fn read(file: &Path, environment: Lookup<'_>) -> Reading {
    static MAIN: LazyLock<Form> = LazyLock::new(Form::main);
    static INCLUDED: LazyLock<Form> = LazyLock::new(Form::included);

    let mut reader = Reader { environment, names: Vec::new(), reading: Files::default(), diagnostics: Vec::new() };
    let mut tree = reader.document(file, &MAIN);
    if let Some(tree) = &mut tree {
        for included in reader.included(file, tree) {
            if let Some(part) = reader.document(&included, &INCLUDED) {
                append(tree, part);
            }
        }
    }
    let Reader { names, reading, diagnostics, .. } = reader;
    let outcome = match tree {
        Some(tree) if diagnostics.is_empty() => deserialize(tree, names),
        _ => Err(in_order(diagnostics, &names)),
    };
    Reading { files: reading.files, directories: reading.directories, outcome }
}

/// What a text in YAML or JSON says, whatever it is; the error is a sentence.
pub fn value_of(text: &str) -> Result<serde_json::Value, String> {
    let tree = tree::parse(text, 0);
    tree.map(|tree| tree.to_json()).map_err(|malformed| malformed.message)
}

/// What is wrong with the form of one entry of a family (`applications`), such as somebody sends it to the control plane:
/// pointers into the entry, and sentences that hold no value of it.
pub fn faults_of_entry(family: &str, entry: &serde_json::Value) -> Vec<(String, String)> {
    static ENTRY: LazyLock<Form> = LazyLock::new(Form::included);

    let document = serde_json::json!({ "version": 1, family: [entry] }).to_string();
    let tree = match tree::parse(&document, 0) {
        Ok(tree) => tree,
        Err(malformed) => return vec![(String::new(), malformed.message)],
    };
    let around = format!("/{family}/0");
    let inside = |pointer: String| pointer.strip_prefix(&around).map(str::to_owned).unwrap_or_default();
    let told = |fault: validate::Fault| (fault.message.clone(), inside(fault.member()));
    ENTRY.faults(&tree).into_iter().map(told).map(|(message, pointer)| (pointer, message)).collect()
}

#[derive(Default)]
struct Files {
    files: Vec<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

struct Reader<'e> {
    environment: Lookup<'e>,
    names: Vec<String>,
    reading: Files,
    diagnostics: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// One file: text, tree, environment, form. `None` where there is no tree.
    fn document(&mut self, file: &Path, form: &Form) -> Option<Node> {
        let index = self.names.len();
        self.names.push(file.display().to_string());
        self.reading.files.push(file.to_owned());
        self.reading.directories.insert(directory(file));
        let whole = Place { file: index, line: 0, column: 0 };
        let parsed = text(file)
            .map_err(|message| (whole, message))
            .and_then(|text| tree::parse(&text, index).map_err(|malformed| (malformed.place, malformed.message)));
        let mut tree = parsed.map_err(|(place, message)| self.tell(place, "", message)).ok()?;
        let mut unresolved = Vec::new();
        substitute::substitute(&mut tree, self.environment, &mut unresolved);
        // A value that is not there yet has no form; its own error is told instead.
        let places: Vec<Place> = unresolved.iter().map(|one| one.place).collect();
        for one in unresolved {
            self.tell(one.place, "", one.message);
        }
        for fault in form.faults(&tree).into_iter().filter(|fault| !places.contains(&fault.place)) {
            self.tell(fault.place, &fault.pointer, fault.message);
        }
        Some(tree)
    }

    /// The files that the main document includes, each once.
    fn included(&mut self, main: &Path, tree: &Node) -> Vec<PathBuf> {
        let base = directory(main);
        let mut seen = BTreeSet::from([identity(main)]);
        let mut files = Vec::new();
        for (pointer, node) in include_entries(tree) {
            let Value::Text(entry) = &node.value else { continue };
            match include::resolve(&entry.text, &base) {
                Ok(included) => {
                    self.reading.directories.insert(included.directory);
                    files.extend(included.files.into_iter().filter(|file| seen.insert(identity(file))));
                }
                Err(message) => {
                    self.reading.directories.insert(directory(&base.join(&entry.text)));
                    self.tell(node.place, &pointer, message);
                }
            }
        }
        if files.len() >= include::FILES_MAX {
            let place = tree.member("include").map_or(tree.place, |entry| entry.key_place);
            self.tell(place, "/include", format!("more than {} files are included", include::FILES_MAX));
            files.clear();
        }
        files
    }

    fn tell(&mut self, place: Place, pointer: &str, message: String) {
        self.diagnostics.push(diagnostic(&self.names, place, pointer, message));
    }
}

/// Where the file stands, for those who watch it and for what is relative to it.
fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn identity(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

fn text(file: &Path) -> Result<String, String> {
    use std::io::Read;
    let opened = std::fs::File::open(file).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    let read = opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| format!("cannot be read: {error}"))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(format!("has more than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 (byte {})", error.utf8_error().valid_up_to()))
}

fn include_entries(tree: &Node) -> Vec<(String, &Node)> {
    match tree.member("include").map(|entry| &entry.value) {
        Some(Node { value: Value::List(items), .. }) => {
            items.iter().enumerate().map(|(index, item)| (format!("/include/{index}"), item)).collect()
        }
        Some(node) => vec![("/include".into(), node)],
        None => Vec::new(),
    }
}

/// Appends the lists of an included document to the main one's.
fn append(main: &mut Node, part: Node) {
    let (Value::Map(main), Value::Map(part)) = (&mut main.value, part.value) else { return };
    for entry in part {
        let Value::List(items) = entry.value.value else { continue };
        let present = main.iter_mut().find(|present| present.key == entry.key);
        match present.map(|present| &mut present.value.value) {
            Some(Value::List(present)) => present.extend(items),
            Some(_) => {}
            None => {
                let value = Node { place: entry.value.place, value: Value::List(items) };
                main.push(Entry { key: entry.key, key_place: entry.key_place, value });
            }
        }
    }
}

/// Piece by piece, so that what only serde notices is still told at its entry, and all of it.
fn deserialize(tree: Node, names: Vec<String>) -> Result<Document, Vec<Diagnostic>> {
    let mut config = Config::default();
    let mut diagnostics = Vec::new();
    let Value::Map(entries) = &tree.value else { return Err(Vec::new()) };
    for entry in entries {
        let mut pieces = Pieces { names: &names, entry, diagnostics: &mut diagnostics };
        match entry.key.as_str() {
            "version" => config.version = pieces.whole().unwrap_or_default(),
            "settings" => config.settings = pieces.whole().unwrap_or_default(),
            "certificates" => config.certificates = pieces.each(),
            "authorities" => config.authorities = pieces.each(),
            "listeners" => config.listeners = pieces.each(),
            "upstreams" => config.upstreams = pieces.each(),
            "apis" => config.apis = pieces.each(),
            "applications" => config.applications = pieces.each(),
            "subscriptions" => config.subscriptions = pieces.each(),
            "keys" => config.keys = pieces.each(),
            "users" => config.users = pieces.each(),
            "revocations" => config.revocations = pieces.each(),
            "issuers" => config.issuers = pieces.each(),
            "assertions" => config.assertions = pieces.each(),
            "plans" => config.plans = pieces.each(),
            "limit_policies" => config.limit_policies = pieces.each(),
            "limits" => config.limits = pieces.each(),
            "denials" => config.denials = pieces.each(),
            "token_endpoint" => config.token_endpoint = pieces.whole(),
            _ => {}
        }
    }
    if diagnostics.is_empty() { Ok(Document { config, names, tree }) } else { Err(in_order(diagnostics, &names)) }
}

struct Pieces<'t> {
    names: &'t [String],
    entry: &'t Entry,
    diagnostics: &'t mut Vec<Diagnostic>,
}

impl Pieces<'_> {
    fn whole<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let pointer = format!("/{}", self.entry.key);
        self.one(&self.entry.value, &pointer)
    }

    fn each<T: serde::de::DeserializeOwned>(&mut self) -> Vec<T> {
        let Value::List(items) = &self.entry.value.value else { return Vec::new() };
        let pointer = |index: usize| format!("/{}/{index}", self.entry.key);
        let named: Vec<_> = items.iter().enumerate().map(|(index, item)| (item, pointer(index))).collect();
        named.into_iter().filter_map(|(item, pointer)| self.one(item, &pointer)).collect()
    }

    fn one<T: serde::de::DeserializeOwned>(&mut self, node: &Node, pointer: &str) -> Option<T> {
        let read = serde_json::from_value(node.to_json());
        read.map_err(|error| self.diagnostics.push(diagnostic(self.names, node.place, pointer, error.to_string()))).ok()
    }
}

fn diagnostic(names: &[String], place: Place, pointer: &str, message: String) -> Diagnostic {
    let file = names.get(place.file).cloned().unwrap_or_default();
    Diagnostic { file, line: place.line, column: place.column, place: pointer.to_owned(), message }
}

/// By file as they were read, then by place; what is told twice once, and not without end.
fn in_order(mut diagnostics: Vec<Diagnostic>, names: &[String]) -> Vec<Diagnostic> {
    let rank = |file: &str| names.iter().position(|name| name == file);
    diagnostics.sort_by_cached_key(|one| (rank(&one.file), one.line, one.column));
    diagnostics.dedup();
    if diagnostics.len() > DIAGNOSTICS_MAX {
        let more = diagnostics.len() - DIAGNOSTICS_MAX;
        diagnostics.truncate(DIAGNOSTICS_MAX);
        let file = names.first().cloned().unwrap_or_default();
        let message = format!("and {more} more errors");
        diagnostics.push(Diagnostic { file, line: 0, column: 0, place: String::new(), message });
    }
    diagnostics
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "\
version: 1
include: [conf.d, extra.yaml]
listeners:
  - {name: public, bind: \"127.0.0.1:${PORT:-8080}\"}
upstreams:
  - {name: chat, endpoints: [{url: \"ws://127.0.0.1:9001/\"}], connect_timeout: \"${TIMEOUT:-2s}\"}
";

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn told(reading: Reading, directory: &Path) -> Vec<String> {
        let prefix = format!("{}/", directory.display());
        reading.outcome.unwrap_err().iter().map(|one| one.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn included_files_append_to_the_lists_in_the_order_of_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        write(directory, "gateway.yaml", MAIN);
        write(
            directory,
            "conf.d/b.yaml",
            "apis: [{name: b, context: /b, endpoints: {production: {upstream: chat}}}]\n",
        );
        write(
            directory,
            "conf.d/a.yaml",
            "version: 1\napis: [{name: a, context: /a, endpoints: {production: {upstream: chat}}}]\n",
        );
        write(directory, "extra.yaml", "listeners: [{name: inner, bind: \"127.0.0.1:8081\"}]\n");
        let reading = read(&directory.join("gateway.yaml"), &|name| (name == "PORT").then(|| "80".into()));
        assert_eq!(reading.files.len(), 4);
        assert!(reading.directories.contains(&directory.join("conf.d")), "{:?}", reading.directories);
        let document = reading.outcome.unwrap();
        let names: Vec<_> = document.config.apis.iter().map(|api| api.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let binds: Vec<_> = document.config.listeners.iter().map(|one| one.bind.to_string()).collect();
        assert_eq!(binds, ["127.0.0.1:80", "127.0.0.1:8081"]);
        let problem = Problem { place: "/apis/1/context".into(), message: "no".into() };
        let located = &document.diagnose(&[problem])[0];
        assert!(located.file.ends_with("conf.d/b.yaml"), "{located}");
        assert_eq!((located.line, located.column), (1, 27));
    }

    #[test]
    fn every_error_of_every_file_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        write(
            directory,
            "gateway.yaml",
            "version: 1\ninclude: [conf.d, nowhere.yaml]\nlisten: 5\nsettings: {drain_window: \"${WINDOW}\"}\n",
        );
        write(directory, "conf.d/a.yaml", "apis:\n  - nam: a\n");
        write(directory, "conf.d/b.yaml", "apis: [\n");
        let told = told(read(&directory.join("gateway.yaml"), &|_| None), directory);
        let places: Vec<_> = told.iter().map(|one| one.split(": ").next().unwrap()).collect();
        assert_eq!(
            places,
            [
                "gateway.yaml:2:19",
                "gateway.yaml:3:1",
                "gateway.yaml:4:26",
                "conf.d/a.yaml:2:5",
                "conf.d/a.yaml:2:5",
                "conf.d/a.yaml:2:5",
                "conf.d/a.yaml:2:5",
                "conf.d/b.yaml:1:7",
            ],
            "{told:#?}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_without_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let reading = read(&directory.path().join("none.yaml"), &|_| None);
        assert_eq!(reading.files.len(), 1, "it is watched all the same");
        let told = told(reading, directory.path());
        assert_eq!(told, ["none.yaml: cannot be opened: No such file or directory (os error 2)"]);
    }

    #[test]
    fn an_empty_file_says_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "empty.yaml", "# nothing\n");
        let told = told(read(&directory.path().join("empty.yaml"), &|_| None), directory.path());
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn a_secret_in_a_variable_is_in_no_message() {
        let directory = tempfile::tempdir().unwrap();
        let text = "version: 1\nlisteners: [{name: \"${S}\", bind: \"${S}\", backlog: \"${S}\"}]\nsettings: \"${S}\"\n";
        write(directory.path(), "a.yaml", text);
        let told = told(read(&directory.path().join("a.yaml"), &|_| Some("hunter2".into())), directory.path());
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|one| !one.contains("hunter2")), "{told:?}");
    }

    #[test]
    fn too_many_errors_end_with_their_number() {
        let directory = tempfile::tempdir().unwrap();
        let text: String = (0..500).map(|index| format!("x{index}: 1\n")).collect();
        write(directory.path(), "a.yaml", &format!("version: 1\n{text}"));
        let told = told(read(&directory.path().join("a.yaml"), &|_| None), directory.path());
        assert_eq!(told.len(), DIAGNOSTICS_MAX + 1);
        assert!(told.iter().any(|one| one.contains("and 300 more errors")));
    }
}
