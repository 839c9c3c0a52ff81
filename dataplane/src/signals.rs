//! Signals, turned into calls on a plain thread: drain, end at once, reopen the session log.
//!
//! SIGHUP is the control plane's word for "read the configuration again" and means nothing here; a data plane that is
//! started in its process group must not die of it.

use std::io;
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

/// What to do when a signal comes. Each is called on the signal thread and should be quick.
pub trait OnSignal: Send + 'static {
    /// The first SIGTERM or SIGINT: stop accepting, close sessions over the window, exit.
    fn drain(&self);
    /// A further SIGTERM or SIGINT: exit now.
    fn end(&self);
    /// SIGUSR1: the session log's file was moved away.
    fn reopen(&self);
}

/// The signal thread; ends when it is dropped.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    /// Takes the signals over from now on.
    pub fn start(on_signal: impl OnSignal) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let handle = signals.handle();
        let thread = thread::Builder::new().name("signals".into()).spawn(move || {
            let mut draining = false;
            for signal in signals.forever() {
                match signal {
                    SIGTERM | SIGINT if draining => {
                        tracing::warn!("a second signal: ending at once");
                        on_signal.end();
                    }
                    SIGTERM | SIGINT => {
                        draining = true;
                        tracing::info!("draining; a second signal ends at once");
                        on_signal.drain();
                    }
                    SIGUSR1 => on_signal.reopen(),
                    // SIGHUP: see above.
                    _ => {}
                }
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the signal thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    struct Notes(Sender<&'static str>);

    impl OnSignal for Notes {
        fn drain(&self) {
            self.0.send("drain").unwrap();
        }
        fn end(&self) {
            self.0.send("end").unwrap();
        }
        fn reopen(&self) {
            self.0.send("reopen").unwrap();
        }
    }

    #[test]
    fn the_first_signal_drains_the_second_ends_and_sighup_does_nothing() {
        let (sender, notes) = channel();
        let thread = SignalThread::start(Notes(sender)).unwrap();
        let next = || notes.recv_timeout(Duration::from_secs(10)).unwrap();
        for (signal, note) in [(SIGUSR1, "reopen"), (SIGTERM, "drain"), (SIGUSR1, "reopen"), (SIGINT, "end")] {
            signal_hook::low_level::raise(SIGHUP).unwrap();
            signal_hook::low_level::raise(signal).unwrap();
            assert_eq!(next(), note);
        }
        drop(thread);
        assert!(notes.recv().is_err(), "the thread has ended and its sender with it");
    }
}
