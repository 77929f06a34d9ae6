//! `selkis ps`, `top`, `log`, `crash`, `trace` and `kill`: what looks into a running system, by its control protocol.
//!
//! They know no platform: what answers on the socket may stand in for a machine.

mod connection;
mod crash;
mod error;
mod escape;
mod json;
mod kill;
mod log;
mod names;
mod printer;
mod ps;
mod table;
mod top;
mod trace;
mod words;

pub mod arguments;
pub use crash::crash;
pub use error::ClientError;
pub use escape::escaped;
pub use kill::kill;
pub use log::log;
pub use ps::ps;
pub use top::top;
pub use trace::trace;
