//! The list of all functions: names, parameters, order, as `wasi_snapshot_preview1.witx` lowers them.

/// Hands the list to `$use_list!`. Every parameter is a core value: `u32` is an `i32`, `u64` and `i64` are an
/// `i64`. All answer an errno, except `proc_exit`, which does not answer and is not listed.
macro_rules! for_each_function {
    ($use_list:ident) => {
        $use_list! {
            args_get(argv: u32, argv_buf: u32);
            args_sizes_get(count: u32, bytes: u32);
            clock_res_get(clock: u32, resolution: u32);
            clock_time_get(clock: u32, precision: u64, time: u32);
            environ_get(environ: u32, environ_buf: u32);
            environ_sizes_get(count: u32, bytes: u32);
            fd_advise(fd: u32, offset: u64, length: u64, advice: u32);
            fd_allocate(fd: u32, offset: u64, length: u64);
            fd_close(fd: u32);
            fd_datasync(fd: u32);
            fd_fdstat_get(fd: u32, fdstat: u32);
            fd_fdstat_set_flags(fd: u32, flags: u32);
            fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64);
            fd_filestat_get(fd: u32, filestat: u32);
            fd_filestat_set_size(fd: u32, size: u64);
            fd_filestat_set_times(fd: u32, accessed_ns: u64, modified_ns: u64, flags: u32);
            fd_pread(fd: u32, buffers: u32, count: u32, offset: u64, done: u32);
            fd_prestat_dir_name(fd: u32, name: u32, length: u32);
            fd_prestat_get(fd: u32, prestat: u32);
            fd_pwrite(fd: u32, buffers: u32, count: u32, offset: u64, done: u32);
            fd_read(fd: u32, buffers: u32, count: u32, done: u32);
            fd_readdir(fd: u32, buffer: u32, length: u32, cookie: u64, used: u32);
            fd_renumber(from: u32, to: u32);
            fd_seek(fd: u32, offset: i64, whence: u32, position: u32);
            fd_sync(fd: u32);
            fd_tell(fd: u32, position: u32);
            fd_write(fd: u32, buffers: u32, count: u32, done: u32);
            path_create_directory(fd: u32, path: u32, length: u32);
            path_filestat_get(fd: u32, lookup: u32, path: u32, length: u32, filestat: u32);
            path_filestat_set_times(
                fd: u32, lookup: u32, path: u32, length: u32, accessed_ns: u64, modified_ns: u64, flags: u32
            );
            path_link(
                from_fd: u32, lookup: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32
            );
            path_open(
                fd: u32, lookup: u32, path: u32, length: u32, oflags: u32, base: u64, inheriting: u64,
                fdflags: u32, opened: u32
            );
            path_readlink(fd: u32, path: u32, length: u32, buffer: u32, buffer_length: u32, used: u32);
            path_remove_directory(fd: u32, path: u32, length: u32);
            path_rename(from_fd: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32);
            path_symlink(text: u32, text_length: u32, fd: u32, path: u32, length: u32);
            path_unlink_file(fd: u32, path: u32, length: u32);
            poll_oneoff(subscriptions: u32, events: u32, count: u32, happened: u32);
            proc_raise(signal: u32);
            random_get(buffer: u32, length: u32);
            sched_yield();
            sock_accept(fd: u32, flags: u32, accepted: u32);
            sock_recv(fd: u32, buffers: u32, count: u32, flags: u32, done: u32, out_flags: u32);
            sock_send(fd: u32, buffers: u32, count: u32, flags: u32, done: u32);
            sock_shutdown(fd: u32, how: u32);
        }
    };
}

pub(super) use for_each_function;
