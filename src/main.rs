//! `framegate`: one executable, both planes. Dispatches verbs; nothing else.

use std::process::ExitCode;

use clap::Parser;
use controlplane::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A WebSocket API gateway for Linux edge hosts
#[derive(Debug, Parser)]
#[command(name = "framegate", version, disable_help_subcommand = true)]
enum Verb {
    /// Run both planes, supervised: of a file, or an echo API to try
    Run(cli::run::Options),
    /// Run the control plane: read a file, publish it to data planes
    Controlplane(cli::controlplane::Options),
    /// Run a data plane: serve what a control plane pushes, or what was stored
    Dataplane(dataplane::options::Options),
    /// Check a file
    Validate(cli::validate::Options),
    /// Show what applying a file would change, and which live sessions it touches
    Diff(cli::diff::Options),
    /// Publish a file, and make it the control plane's source
    Apply(cli::apply::Options),
    /// Have the control plane read its source again
    Reload(cli::reload::Options),
    /// Show how the control plane and its data planes stand
    Status(cli::status::Options),
    /// Show what is used of limits, by key
    Usage(cli::usage::Options),
    /// Get, look at and take back tokens, as a client of a token endpoint
    Token(cli::token::Options),
    /// Have data planes stop accepting and close their sessions
    Drain(cli::drain::Options),
    /// List, publish and change APIs
    Api(cli::api::Options),
    /// List, create and change applications and their OAuth2 clients
    App(cli::app::Options),
    /// List, create and change subscriptions of applications to APIs
    Subscription(cli::subscription::Options),
    /// List, make and change API keys
    Key(cli::key::Options),
    /// List, create and change users
    User(cli::user::Options),
    /// Revoke a token, key, client, user, application or subscription
    Revoke(cli::revoke::Options),
    /// List, create and change plans: how much may pass
    Plan(cli::plan::Options),
    /// Deny an API, an application, a user or addresses, on live sessions too
    Deny(cli::deny::Options),
    /// Turn what other programs have into what this one reads: key stores into PEM files
    Convert(cli::convert::Options),
    /// Print the version
    Version(cli::version::Options),
    /// Run a WebSocket server that sends every message back
    Echo(cli::echo::Options),
    /// Print the JSON Schema of the configuration
    Schema(cli::schema::Options),
}

fn main() -> ExitCode {
    match Verb::parse() {
        Verb::Run(options) => cli::run::run(options),
        Verb::Controlplane(options) => cli::controlplane::run(options),
        Verb::Dataplane(options) => dataplane::run(&options),
        Verb::Validate(options) => cli::validate::run(options),
        Verb::Diff(options) => cli::diff::run(options),
        Verb::Apply(options) => cli::apply::run(options),
        Verb::Reload(options) => cli::reload::run(options),
        Verb::Status(options) => cli::status::run(options),
        Verb::Usage(options) => cli::usage::run(options),
        Verb::Token(options) => cli::token::run(options),
        Verb::Drain(options) => cli::drain::run(options),
        Verb::Api(options) => cli::api::run(options),
        Verb::App(options) => cli::app::run(options),
        Verb::Subscription(options) => cli::subscription::run(options),
        Verb::Key(options) => cli::key::run(options),
        Verb::User(options) => cli::user::run(options),
        Verb::Revoke(options) => cli::revoke::run(options),
        Verb::Plan(options) => cli::plan::run(options),
        Verb::Deny(options) => cli::deny::run(options),
        Verb::Convert(options) => cli::convert::run(options),
        Verb::Version(options) => cli::version::run(options),
        Verb::Echo(options) => cli::echo::run(options),
        Verb::Schema(options) => cli::schema::run(options),
    }
}
