;; Copies standard input to standard output. Its status is the errno of the call that failed, or 0.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)

  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))

  (func $write_all (param $from i32) (param $left i32) (local $written i32)
    (loop $more
      (if (local.get $left)
        (then
          (i32.store (i32.const 0) (local.get $from))
          (i32.store (i32.const 4) (local.get $left))
          (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $written (i32.load (i32.const 8)))
          (local.set $from (i32.add (local.get $from) (local.get $written)))
          (local.set $left (i32.sub (local.get $left) (local.get $written)))
          (br $more)))))

  (func (export "_start") (local $read i32)
    (loop $next
      (i32.store (i32.const 0) (i32.const 0x10000))
      (i32.store (i32.const 4) (i32.const 0x10000))
      (call $check (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (local.tee $read (i32.load (i32.const 8)))
        (then
          (call $write_all (i32.const 0x10000) (local.get $read))
          (br $next))))))
