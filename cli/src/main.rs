//! The program `millhand`.

fn main() -> std::process::ExitCode {
    millhand_cli::main()
}
