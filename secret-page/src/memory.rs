//! Memory that cannot become a program.

use std::io;

/// From now on no memory of this process, nor of what it starts, is writable and executable at once, and
/// none that was not executable becomes so (PR_SET_MDWE, prctl(2)). Nothing takes it back.
///
/// # Errors
/// When the kernel has no such thing (before Linux 6.3), or does not say afterwards that it holds.
pub fn deny_write_execute() -> io::Result<()> {
    prctl(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN)?;
    match prctl(libc::PR_GET_MDWE, 0)? {
        0 => Err(io::Error::other("the kernel took it and does not hold it")),
        _ => Ok(()),
    }
}

fn prctl(option: libc::c_int, argument: libc::c_uint) -> io::Result<libc::c_int> {
    let (argument, none) = (libc::c_ulong::from(argument), 0 as libc::c_ulong);
    // SAFETY: neither option has an argument that is an address.
    match unsafe { libc::prctl(option, argument, none, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        returned => Ok(returned),
    }
}
