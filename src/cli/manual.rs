//! `fastness man`: one page, made from the same definitions as `--help`.

use std::io::{self, Write};

use clap::CommandFactory;

use super::{Cli, Failure, output};

/// Prints the manual page with a section for each command.
pub(super) fn print() -> Result<(), Failure> {
    let mut page = Vec::new();
    render(&mut page)?;
    output::text(&String::from_utf8_lossy(&page))
}

fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        section(page, sub, sub.get_name())?;
    }
    man.render_extra_section(page)
}

fn section(page: &mut Vec<u8>, command: &clap::Command, name: &str) -> io::Result<()> {
    writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
    let man = clap_mangen::Man::new(command.clone());
    let mut body = Vec::new();
    man.render_synopsis_section(&mut body)?;
    man.render_description_section(&mut body)?;
    man.render_options_section(&mut body)?;
    // Sections of a command are subsections of the page.
    let body = String::from_utf8_lossy(&body).replace(".SH ", ".SS ");
    page.write_all(body.as_bytes())?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        section(page, sub, &format!("{name} {}", sub.get_name()))?;
    }
    Ok(())
}
