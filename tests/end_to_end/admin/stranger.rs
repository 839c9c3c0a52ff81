//! The OpenAPI document as a validator reads that other people wrote.

use std::process::Command;

use crate::kit::Admin;
use crate::strangers::{skip, strangers_home, succeeds};

use super::gateway;

#[test]
fn a_foreign_validator_finds_the_openapi_document_sound() {
    let venv = strangers_home().join("venv/bin/python");
    let python = if venv.exists() { venv } else { "python3".into() };
    if !succeeds(Command::new(&python).args(["-c", "import openapi_spec_validator"])) {
        return skip("Python openapi-spec-validator", "pip install openapi-spec-validator");
    }
    let gateway = gateway();
    let served = Admin::of(&gateway).get("/openapi.json");
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    let file = gateway.setup().directory().join("openapi.json");
    std::fs::write(&file, &served.body).expect("a file can be written");
    let script = "import json, sys; from openapi_spec_validator import OpenAPIV31SpecValidator as V; \
        faults = list(V(json.load(open(sys.argv[1]))).iter_errors()); print(faults); sys.exit(len(faults) > 0)";
    let output = Command::new(python).args(["-c", script]).arg(&file).output().expect("python runs");
    assert!(output.status.success(), "{output:?}");
    // And what is served is what is checked in.
    let checked_in =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json")).expect("a page");
    assert_eq!(served.json(), serde_json::from_str::<serde_json::Value>(&checked_in).expect("JSON"));
}
