//! How much a child may take, and how many there may be.

use std::{fs, num::NonZero, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory of one child, beyond what the program takes without an expression.
pub(super) const MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// Memory of a control group that is not for children.
const RESERVED_BYTES: u64 = 256 * 1024 * 1024;

/// How many children there may be at once: one per core, and no more than fit into memory, because
/// one that does not fit ends every process of a Kubernetes pod.
pub(super) fn places() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let fitting = memory_max().map(|max| max.saturating_sub(RESERVED_BYTES) / MEMORY_BYTES);
    fitting.map_or(cores, |fitting| cores.min(usize::try_from(fitting).unwrap_or(cores))).max(1)
}

/// The least `memory.max` of this process's control group and those above it (cgroup v2).
fn memory_max() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(group);
    let limits = group.ancestors().filter(|group| group.starts_with("/sys/fs/cgroup"));
    let limits = limits.filter_map(|group| fs::read_to_string(group.join("memory.max")).ok());
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

/// Gives this process, a child, its limits. There is no way back from them.
pub(super) fn apply(cpu_seconds: u64) -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Read before no file can be opened.
    let memory = mapped_bytes().saturating_add(MEMORY_BYTES);
    limit(Resource::Core, 0, 0)?;
    // Its standard output is a socket, which this limit is not about.
    limit(Resource::Fsize, 0, 0)?;
    // A signal that says why, and a second later one that cannot be ignored.
    limit(Resource::Cpu, cpu_seconds, cpu_seconds + 1)?;
    // Standard input, output and error are open already.
    limit(Resource::Nofile, 3, 3)?;
    let limited = limit(Resource::As, memory, memory);
    // macOS refuses what is below the address space it maps for every process.
    if cfg!(target_os = "linux") { limited } else { Ok(()) }
}

fn limit(resource: Resource, soft: u64, hard: u64) -> rustix::io::Result<()> {
    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    setrlimit(resource, Rlimit { current: Some(soft.min(most)), maximum: Some(hard.min(most)) })
}

/// The address space of the program itself, which counts against the limit without being memory.
fn mapped_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}
