;; More of WASI, stepped through: streams, words, waiting, what there is not. After what suspends it, it says that it is to be stepped through again.
(module
  (import "step" "begin" (func $begin))
  (import "step" "end" (func $end (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $fd_seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_shutdown" (func $sock_shutdown (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; A buffer of nothing, and one of 16 bytes.
  (data (i32.const 16) "\00\02\00\00" "\00\00\00\00" "\00\02\00\00" "\10\00\00\00")

  (func $must_be (param $is i32) (param $wanted i32)
    (if (i32.ne (local.get $is) (local.get $wanted)) (then (unreachable))))

  (func (export "_start")
    (call $begin)
    (call $must_be (call $args_get (i32.const 256) (i32.const 512)) (i32.const 0))
    (call $begin)
    (call $must_be (call $environ_sizes_get (i32.const 0) (i32.const 4)) (i32.const 0))
    (call $begin)
    (call $must_be (call $environ_get (i32.const 256) (i32.const 512)) (i32.const 0))
    (call $begin)
    (call $must_be (call $clock_res_get (i32.const 1) (i32.const 64)) (i32.const 0))
    ;; Standard input is at its end.
    (call $must_be (call $fd_read (i32.const 0) (i32.const 24) (i32.const 1) (i32.const 8)) (i32.const 0))
    (call $begin)
    (call $must_be (i32.load (i32.const 8)) (i32.const 0))
    (call $begin)
    (call $must_be (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)) (i32.const 0))
    (call $begin)
    (call $must_be (call $fd_seek (i32.const 1) (i64.const 0) (i32.const 0) (i32.const 64)) (i32.const 70)) ;; ESPIPE
    (call $begin)
    (call $must_be (call $fd_prestat_get (i32.const 3) (i32.const 64)) (i32.const 8)) ;; EBADF
    (call $begin)
    (call $must_be (call $fd_renumber (i32.const 2) (i32.const 1)) (i32.const 0))
    (call $begin)
    (call $must_be (call $fd_close (i32.const 1)) (i32.const 0))
    (call $begin)
    (call $must_be (call $fd_close (i32.const 1)) (i32.const 8)) ;; EBADF
    (call $begin)
    (call $must_be
      (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)
        (i32.const 0) (i32.const 64))
      (i32.const 8)) ;; EBADF
    (call $begin)
    (call $must_be (call $path_unlink_file (i32.const 0) (i32.const 16) (i32.const 1)) (i32.const 54)) ;; ENOTDIR
    (call $begin)
    (call $must_be (call $sock_shutdown (i32.const 0) (i32.const 0)) (i32.const 57)) ;; ENOTSOCK
    ;; Until a time that has come: a clock, the monotonic one.
    (i32.store (i32.const 1040) (i32.const 1))
    (i64.store (i32.const 1048) (i64.const 1))
    (call $begin)
    (call $must_be (call $poll_oneoff (i32.const 1024) (i32.const 1088) (i32.const 1) (i32.const 1152)) (i32.const 0))
    (call $begin)
    (call $must_be (i32.load (i32.const 1152)) (i32.const 1))
    (call $begin)
    (if (call $end) (then (loop $for_ever (br $for_ever))))))
