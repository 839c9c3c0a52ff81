//! `echo`: a WebSocket server that sends every message back, to try the gateway with.

use std::net::SocketAddr;
use std::process::ExitCode;

use proto::snapshot::Size;

use super::{cannot, print};
use crate::echo::{self, MESSAGE_BYTES_MAX};

/// Options of `echo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Runs until it is stopped. Exit codes: 2 the address cannot be bound.")]
pub struct Options {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    bind: SocketAddr,
    /// The largest message that is echoed
    #[arg(long, value_name = "SIZE", default_value_t = Size::from_bytes(MESSAGE_BYTES_MAX as u64))]
    max_message: Size,
}

/// Echoes until it is stopped.
pub fn run(options: Options) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cannot(false, &format!("the runtime cannot be started: {error}")),
    };
    runtime.block_on(async {
        match tokio::net::TcpListener::bind(options.bind).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(options.bind);
                print(&format!("echoing on ws://{address}/\n"));
                let message_bytes_max = usize::try_from(options.max_message.as_bytes()).unwrap_or(usize::MAX);
                echo::serve(listener, message_bytes_max).await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                cannot(false, &format!("cannot listen on {}: {error}; choose another with --bind", options.bind))
            }
        }
    })
}
