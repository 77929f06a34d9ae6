;; Keeps and throws away exceptions as no compiler would: what its first argument says.
;;   l  lists of a thousand, each carrying the one before, that are dropped one after the other; exits with 7
;;   e  one such list without end
;;   s  as many as its stack holds, at any depth, while others are thrown away; exits with 7
;;   t  one, in half a million places of a table, while others are thrown away
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (tag $link (param exnref))
  (global $kept (mut exnref) (ref.null exn))
  (table $places 0 exnref)

  (func $caught (param $before exnref) (result exnref)
    (block $handler (result exnref)
      (try_table (catch_all_ref $handler) (throw $link (local.get $before)))
      (unreachable)))

  ;; So many that nobody keeps.
  (func $waste (param $left i32)
    (loop $next
      (drop (call $caught (ref.null exn)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

  (func $lists (param $lists i32)
    (local $left i32)
    (loop $again
      (global.set $kept (ref.null exn))
      (local.set $left (i32.const 1000))
      (loop $next
        (global.set $kept (call $caught (global.get $kept)))
        (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (br_if $again (local.tee $lists (i32.sub (local.get $lists) (i32.const 1))))))

  (func $endless
    (loop $next
      (global.set $kept (call $caught (global.get $kept)))
      (br $next)))

  ;; Each frame has four.
  (func $deep (param $left i32) (param $a exnref) (param $b exnref) (param $c exnref) (param $d exnref)
    (if (local.get $left)
      (then
        (call $deep (i32.sub (local.get $left) (i32.const 1))
          (local.get $b) (local.get $c) (local.get $d) (local.get $a)))
      (else (call $waste (i32.const 20000))))
    ;; They are wanted until here.
    (if (i32.or
          (i32.or (ref.is_null (local.get $a)) (ref.is_null (local.get $b)))
          (i32.or (ref.is_null (local.get $c)) (ref.is_null (local.get $d))))
      (then (unreachable))))

  (func (export "_start") (local $what i32) (local $one exnref)
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 16) (i32.const 256)))
    (local.set $what (i32.load8_u (i32.load (i32.const 20))))
    (local.set $one (call $caught (ref.null exn)))
    (if (i32.eq (local.get $what) (i32.const 108)) (then (call $lists (i32.const 50))))
    (if (i32.eq (local.get $what) (i32.const 101)) (then (call $endless)))
    (if (i32.eq (local.get $what) (i32.const 115))
      (then
        (call $deep (i32.const 3000) (local.get $one) (local.get $one) (local.get $one) (local.get $one))))
    (if (i32.eq (local.get $what) (i32.const 116))
      (then
        (if (i32.eq (table.grow $places (local.get $one) (i32.const 524289)) (i32.const -1)) (then (unreachable)))
        (call $waste (i32.const 20000))
        (call $exit (i32.const 1))))
    (call $exit (i32.const 7))))
