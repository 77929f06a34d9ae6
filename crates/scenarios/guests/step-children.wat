;; A parent, stepped through: it starts itself, looks at its child, ends it and hears of that. After each function that suspends it, it says that it is
;; to be stepped through again.
(module
  (import "step" "begin" (func $begin))
  (import "step" "end" (func $end (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (import "selkis_process" "kill" (func $kill (param i64) (result i32)))
  (import "selkis_process" "list" (func $list (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "itself" "child\00")
  ;; The record: the program, and its argument.
  (data (i32.const 64) "\00\00\00\00" "\06\00\00\00" "\06\00\00\00" "\06\00\00\00")

  (func $must_be (param $is i32) (param $wanted i32)
    (if (i32.ne (local.get $is) (local.get $wanted)) (then (unreachable))))

  (func (export "_start")
    (call $must_be (call $args_sizes_get (i32.const 160) (i32.const 164)) (i32.const 0))
    ;; The child.
    (if (i32.load (i32.const 160)) (then (loop $for_ever (br $for_ever))))
    (call $begin)
    (call $must_be (call $spawn (i32.const 64) (i32.const 208)) (i32.const 0))
    (call $begin)
    (call $must_be (call $list (i32.const 256) (i32.const 4) (i32.const 248)) (i32.const 0))
    (call $begin)
    (call $must_be (i32.load (i32.const 248)) (i32.const 1))
    (call $begin)
    (call $must_be (i32.load (i32.const 264)) (i32.const 0))
    (call $begin)
    (call $must_be (call $wait (i64.const 0) (i64.const 0) (i32.const 216)) (i32.const 6)) ;; EAGAIN
    (call $begin)
    (call $must_be (call $kill (i64.load (i32.const 208))) (i32.const 0))
    (call $begin)
    (call $must_be (call $wait (i64.load (i32.const 208)) (i64.const -1) (i32.const 216)) (i32.const 0))
    (call $begin)
    (call $must_be (i32.load (i32.const 224)) (i32.const 3))
    (call $begin)
    (call $must_be (call $kill (i64.load (i32.const 208))) (i32.const 71)) ;; ESRCH
    (call $begin)
    (call $must_be (call $wait (i64.const 0) (i64.const 0) (i32.const 216)) (i32.const 12)) ;; ECHILD
    ;; One that it leaves behind.
    (call $must_be (call $spawn (i32.const 64) (i32.const 208)) (i32.const 0))
    (call $begin)
    (if (call $end) (then (loop $for_ever (br $for_ever))))))
