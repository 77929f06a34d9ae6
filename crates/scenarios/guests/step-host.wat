;; Host functions, stepped through: WASI's, and one that does nothing.
(module
  (import "step" "begin" (func $begin))
  (import "step" "end" (func $end (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)

  (func $must_be (param $is i32) (param $wanted i32)
    (if (i32.ne (local.get $is) (local.get $wanted)) (then (unreachable))))

  (func (export "_start")
    (call $begin)
    (call $must_be (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 64)) (i32.const 0))
    (call $begin)
    (call $must_be (i64.eqz (i64.load (i32.const 64))) (i32.const 0))
    (call $begin)
    (call $must_be (call $args_sizes_get (i32.const 0) (i32.const 4)) (i32.const 0))
    (call $begin)
    (call $must_be (call $fd_fdstat_get (i32.const 99) (i32.const 128)) (i32.const 8)) ;; EBADF
    (call $begin)
    (call $must_be (call $sched_yield) (i32.const 0))
    (call $begin) ;; It was suspended.
    (call $must_be (call $random_get (i32.const 256) (i32.const 16)) (i32.const 0))
    (call $begin)
    (if (call $end) (then (loop $for_ever (br $for_ever))))))
