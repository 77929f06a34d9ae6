;; exit CODE: calls for its exit with that status. Without an argument it returns, which is status 0.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)

  (func $number (param $at i32) (result i32) (local $value i32) (local $digit i32)
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.tee $digit (i32.load8_u (local.get $at)))))
        (local.set $value
          (i32.add (i32.mul (local.get $value) (i32.const 10)) (i32.sub (local.get $digit) (i32.const 48))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (local.get $value))

  (func (export "_start")
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (if (i32.lt_u (i32.load (i32.const 0)) (i32.const 2)) (then (return)))
    (drop (call $args_get (i32.const 16) (i32.const 1024)))
    (call $proc_exit (call $number (i32.load (i32.const 20))))))
