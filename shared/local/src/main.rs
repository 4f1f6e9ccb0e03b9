use std::process::ExitCode;

use watchbill::cli;

fn main() -> ExitCode {
    ExitCode::from(cli::main(std::env::args_os()))
}
