//! Makes chance and the clock part of the simulation, without a word in the product's code.
//!
//! Whatever in the process asks the system for randomness, time or its own number ends in one of four C functions. This file defines them
//! anew, and the linker prefers what the program itself defines to what the C library has: on the thread of a simulation
//! they answer from the seed and the simulated clock, on every other thread they ask the kernel as always. So hash maps,
//! tokio's `select!`, Raft's election timeouts and tonic's date headers are the same in every run of a seed.

#![allow(
    unsafe_code,
    reason = "the C library's functions are replaced for this test program; nothing else makes a hash map's seed repeatable"
)]

use std::arch::asm;
use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::time::Duration;

/// Simulated wall clocks begin here: 2026-01-01 in seconds.
const EPOCH_SECONDS: u64 = 1_767_225_600;
/// Simulated monotonic clocks begin here, so that subtracting a little from them never underflows.
const BOOT: Duration = Duration::from_secs(1_000_000);

/// The number of every simulated process.
const SIMULATED_PID: c_int = 7;

const CLOCK_REALTIME: c_int = 0;
const CLOCK_REALTIME_COARSE: c_int = 5;
#[cfg(target_arch = "x86_64")]
const SYS_CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "x86_64")]
const SYS_GETRANDOM: c_long = 318;
#[cfg(target_arch = "x86_64")]
const SYS_GETPID: c_long = 39;
#[cfg(target_arch = "aarch64")]
const SYS_CLOCK_GETTIME: c_long = 113;
#[cfg(target_arch = "aarch64")]
const SYS_GETRANDOM: c_long = 278;
#[cfg(target_arch = "aarch64")]
const SYS_GETPID: c_long = 172;

thread_local! {
    // Neither has a destructor, so both can be used while a thread begins or ends.
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// From now on this thread's chance comes from `seed`, and its clocks stand until [`set_now`]. To be called first of all:
/// what has been drawn before stays as it is.
pub fn begin(seed: u64) {
    // The whole point of the sequence is that it is the same each time; any mixing of the seed does.
    RANDOM.set(Some(seed ^ 0x5DEE_CE66_D1CE_5EED));
    NOW.set(Duration::ZERO);
}

/// Moves this thread's clocks to so long after the start of the simulation.
pub fn set_now(elapsed: Duration) {
    NOW.set(elapsed);
}

/// How long the simulation has lasted, by this thread's clock.
pub fn now() -> Duration {
    NOW.get()
}

/// The simulated wall clock in milliseconds since 1970.
pub fn wall_millis() -> i64 {
    (EPOCH_SECONDS as i64) * 1000 + NOW.get().as_millis() as i64
}

/// The machine's own monotonic clock, on any thread.
pub fn real_now() -> Duration {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the kernel writes one timespec to a place that is one.
    unsafe { raw(SYS_CLOCK_GETTIME, [CLOCK_MONOTONIC, &raw mut time as usize, 0, 0, 0, 0]) };
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}

/// The C library's `struct timespec` on 64-bit Linux.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// Fills `length` bytes from the seed; false if this thread is in no simulation.
unsafe fn simulated_random(into: *mut c_void, length: usize) -> bool {
    let Some(state) = RANDOM.get() else { return false };
    if length == 0 {
        // A library asks whether the call is there at all, once in a process: that must not change what follows.
        return true;
    }
    let mut dice = crate::dice::Dice::new(state);
    let mut at = 0;
    while at < length {
        let bytes = dice.next().to_le_bytes();
        let part = bytes.len().min(length - at);
        // SAFETY: the caller gives `length` writable bytes, as the kernel would need them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), into.cast::<u8>().add(at), part) };
        at += part;
    }
    RANDOM.set(Some(dice.next()));
    true
}

/// `getrandom(2)`: what std seeds its hash maps with, and what the `getrandom` crate calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, length: usize, flags: c_uint) -> isize {
    // SAFETY: the same contract as ours.
    unsafe { syscall(SYS_GETRANDOM, into as usize, length, flags as usize, 0, 0, 0) as isize }
}

/// `clock_gettime(2)`: what std's `Instant` and `SystemTime` call.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, into: *mut c_void) -> c_int {
    if RANDOM.get().is_none() {
        // SAFETY: the same contract as ours.
        return unsafe { syscall(SYS_CLOCK_GETTIME, clock as usize, into as usize, 0, 0, 0, 0) as c_int };
    }
    let time = match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE => Duration::from_secs(EPOCH_SECONDS) + NOW.get(),
        _ => BOOT + NOW.get(),
    };
    let time = Timespec { seconds: time.as_secs() as i64, nanoseconds: i64::from(time.subsec_nanos()) };
    // SAFETY: the caller gives room for a timespec.
    unsafe { into.cast::<Timespec>().write(time) };
    0
}

/// `getpid(2)`: some ids are made of it.
#[unsafe(no_mangle)]
unsafe extern "C" fn getpid() -> c_int {
    if RANDOM.get().is_some() {
        return SIMULATED_PID;
    }
    // SAFETY: the call takes nothing.
    unsafe { raw(SYS_GETPID, [0; 6]) as c_int }
}

/// `syscall(2)`, by which older versions of the `getrandom` crate get their bytes. In C it takes any number of arguments; in
/// the calling conventions of the two architectures here, six integers are the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // SAFETY: the arguments of getrandom(2): a place and its length.
    if number == SYS_GETRANDOM && unsafe { simulated_random(a as *mut c_void, b) } {
        return b as c_long;
    }
    // SAFETY: the caller's contract with the kernel is handed on unchanged.
    let result = unsafe { raw(number, [a, b, c, d, e, f]) };
    if (-4095..0).contains(&result) {
        // SAFETY: the C library gives every thread its errno.
        unsafe { *__errno_location() = -result as c_int };
        return -1;
    }
    result
}

#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: c_long, arguments: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: c_long, arguments: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};
    use std::time::{Instant, SystemTime};

    fn drawn(seed: u64) -> (u64, [u8; 20], u64) {
        let work = move || {
            begin(seed);
            let mut bytes = [0; 20];
            // SAFETY: twenty bytes are there.
            assert_eq!(unsafe { getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) }, 20);
            (RandomState::new().hash_one(1), bytes, rand::random())
        };
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn chance_follows_the_seed() {
        assert_eq!(drawn(1), drawn(1));
        let (one, two) = (drawn(1), drawn(2));
        assert!(one.0 != two.0 && one.1 != two.1 && one.2 != two.2);
    }

    #[test]
    fn clocks_stand_until_they_are_moved() {
        let work = || {
            begin(1);
            let (instant, wall) = (Instant::now(), SystemTime::now());
            std::thread::yield_now();
            assert_eq!(instant.elapsed(), Duration::ZERO);
            set_now(Duration::from_millis(1_500));
            assert_eq!(instant.elapsed(), Duration::from_millis(1_500));
            assert_eq!(wall.elapsed().unwrap(), Duration::from_millis(1_500));
            assert_eq!(wall_millis() % 100_000, 1_500 + (EPOCH_SECONDS as i64 * 1000) % 100_000);
        };
        std::thread::spawn(work).join().unwrap();
    }

    #[test]
    fn other_threads_have_the_machines_clock_and_chance() {
        let after_2025 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(after_2025 > 1_735_689_600);
        assert_ne!(RandomState::new().hash_one(1), RandomState::new().hash_one(1));
        assert!(real_now() > Duration::ZERO);
    }
}
