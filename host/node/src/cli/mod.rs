//! The command line: `mks start` runs a node, everything else talks to one over gRPC.

mod admin;
mod batch;
mod client;
mod data;
mod epoch;
mod follow;
mod key;
mod moves;
mod node;
mod output;
mod plugin;
mod repair;
mod scrub;
mod seals;
mod start;
mod storage;
mod typed;
mod units;

pub use client::{Client, DurabilityArg, Failure, durability};
pub(crate) use client::{connect, kv_client};
pub use output::{Output, progress, table};
pub use units::duration;

use crate::bench;
use crate::config::CLIENT_PORT;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the node refused, or something failed here
  2  the command line makes no sense
  3  the key was not found
  4  not enough owners (or voters, or members) answered in time; a write may still be on some of them
  5  no node could be reached, or none that can serve yet

Environment: MKS_ADDR is the default of --addr; MKS_CONFIG and MKS_SECTION__FIELD configure `mks start`.";

/// A leaderless key-value store whose conflict policies and storage adapters are WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "mks", version, about, after_help = EXIT_CODES, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Client addresses of nodes, host:port; with several, the next one is tried when one can't be reached
    #[arg(long, env = "MKS_ADDR", value_delimiter = ',', default_values_t = [default_address()], global = true)]
    #[arg(action = clap::ArgAction::Append, num_args = 1, value_name = "ADDR[,ADDR]")]
    pub addr: Vec<String>,
    /// Print JSON for scripts instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
}

fn default_address() -> String {
    format!("127.0.0.1:{CLIENT_PORT}")
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or SIGINT
    Start(Box<start::StartArgs>),
    /// Store a value
    Put(data::PutArgs),
    /// Read a value; the raw bytes go to stdout
    Get(data::GetArgs),
    /// Remove a value; removing what is absent is fine
    Del(data::DeleteArgs),
    /// Put and delete many keys, from JSON lines
    Batch(batch::BatchArgs),
    /// Change a value by an operation of the keyspace's data type
    Apply(typed::ApplyArgs),
    /// Ask the keyspace's data type about a value
    View(typed::ViewArgs),
    /// Count, in a keyspace with the data type pn-counter or g-counter
    #[command(subcommand)]
    Counter(typed::CounterCommand),
    /// Sets, in a keyspace with the data type or-set
    #[command(subcommand)]
    Set(typed::SetCommand),
    /// A node, its cluster, and what an operator should know
    Status,
    /// Who owns what
    Ring(admin::RingArgs),
    /// The members, and changes of them: grow, shrink, replace, weigh
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// What moves from node to node, how fast, and what it waits for
    Moves(moves::MovesArgs),
    /// What changed in the configuration lately: when, and by whom
    Epoch,
    /// Compare what a node holds with the other owners now, and mend what differs
    Repair(repair::RepairArgs),
    /// Look at all records on a node's disk now, and mend what it damaged
    Scrub(scrub::ScrubArgs),
    /// Create, list and alter keyspaces
    #[command(subcommand)]
    Keyspace(admin::KeyspaceCommand),
    /// Measure a cluster: throughput, latency, CPU per operation
    Bench(Box<bench::BenchArgs>),
    /// Make, build and check plugins on this machine, and install them on a cluster
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// The data of a node that is stopped
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Make a key file for a new cluster
    Keygen(key::KeygenArgs),
    /// The configuration file
    #[command(subcommand)]
    Config(start::ConfigCommand),
    /// A server that moves the messages of a quorum operation and stores nothing (run by `bench --limits`)
    #[command(hide = true)]
    BenchFloorNode(bench::FloorArgs),
}

/// Parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let output = Output::new(common.json);
    match run(&common, command, &output) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough, as in `mks status | head -1`.
        Err(Failure::Local(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(common: &Common, command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Start(args) => return start::start(&args),
        Command::Config(command) => return start::config(&command, output),
        Command::Keygen(args) => return key::keygen(&args, output),
        Command::Storage(command) => return storage::storage(&command, output),
        Command::Plugin(plugin::PluginCommand::Local(command)) => return plugin::local(&command, output),
        Command::BenchFloorNode(args) => return Ok(bench::floor_node(&args)?),
        _ => {}
    }
    let client = Client::new(&common.addr)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    runtime.block_on(async {
        match command {
            Command::Put(args) => data::put(&client, &args, output).await,
            Command::Get(args) => data::get(&client, &args, output).await,
            Command::Del(args) => data::delete(&client, &args, output).await,
            Command::Batch(args) => batch::batch(&client, &args, output).await,
            Command::Apply(args) => typed::apply(&client, &args, output).await,
            Command::View(args) => typed::view(&client, &args, output).await,
            Command::Counter(command) => typed::counter(&client, &command, output).await,
            Command::Set(command) => typed::set(&client, &command, output).await,
            Command::Status => admin::status(&client, output).await,
            Command::Ring(args) => admin::ring(&client, &args, output).await,
            Command::Node(command) => node::node(&client, &command, output).await,
            Command::Moves(args) => moves::moves(&client, &args, output).await,
            Command::Epoch => epoch::epoch(&client, output).await,
            Command::Repair(args) => repair::repair(&client, &args, output).await,
            Command::Scrub(args) => scrub::scrub(&client, &args, output).await,
            Command::Keyspace(command) => admin::keyspace(&client, &command, output).await,
            Command::Bench(args) => bench::bench(&client, &args, output).await,
            Command::Plugin(plugin::PluginCommand::Live(command)) => plugin::live(&client, &command, output).await,
            Command::Start(_)
            | Command::Config(_)
            | Command::Keygen(_)
            | Command::Storage(_)
            | Command::Plugin(_)
            | Command::BenchFloorNode(_) => Ok(()),
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn several_addresses_come_with_commas_or_repeated() {
        for line in ["mks --addr a:1,b:2 status", "mks status --addr a:1 --addr b:2"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.common.addr, ["a:1", "b:2"]);
        }
    }

    #[test]
    fn what_contradicts_itself_is_a_usage_error() {
        for line in [
            "mks put k v --file f",
            "mks put",
            "mks start --bootstrap --join a:1",
            "mks bench --reads 2",
            "mks put k v --deadline 5",
            "mks put k v --w 0",
            "mks put k v --request-id 12",
            "mks node accept",
            "mks node leave 3 --plan --wait",
            "mks node leave 3 --plan --planned-in 7",
            "mks node replace 3",
            "mks node weight 3 0",
            "mks plugin install",
            "mks apply k",
            "mks set add k",
            "mks counter add k many",
            "mks keyspace create k --datatype or-set --resolver lww",
            "mks plugin alter biggest",
            "mks plugin alter biggest --release --quarantine because",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
