;; With an argument: looks whether all is as in a program that nobody has run before, leaves its mark everywhere, and ends as that says:
;;   e  exits with 100        t  traps        o  by a stack that is full        s  spins until it is killed
;; or exits with the number of what was not so. Without one: has that done again and again, by children that it starts, and exits with 0, or
;; traps if one ends otherwise. `leaks` may start itself.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (import "selkis_process" "kill" (func $kill (param i64) (result i32)))
  (memory (export "memory") 4)
  (table $table 40 funcref)
  (global $small (mut i32) (i32.const 11))
  (global $large (mut i64) (i64.const 12))
  (global $lanes (mut v128) (v128.const i32x4 1 2 3 4))
  (global $function (mut funcref) (ref.null func))
  (elem (i32.const 0) $mark)
  (elem $elements func $mark $deep)
  (data $passive "passive")
  (data (i32.const 0) "leaks\00" "x\00?\00")
  (data (i32.const 64) "\00\00\00\00" "\05\00\00\00" "\06\00\00\00" "\04\00\00\00")
  ;; In the middle of what else is zero.
  (data (i32.const 0x21000) "here")

  (func $must (param $check i32) (param $holds i32)
    (if (i32.eqz (local.get $holds)) (then (call $proc_exit (local.get $check)))))

  ;; All zeros, from `at` to `end`.
  (func $blank (param $check i32) (param $at i32) (param $end i32) (local $all i64)
    (loop $next
      (local.set $all (i64.or (local.get $all) (i64.load (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (call $must (local.get $check) (i64.eqz (local.get $all))))

  (func $deep (param $n i32) (param $pattern v128) (result v128)
    (i32x4.add (local.get $pattern)
      (call $deep (i32.add (local.get $n) (i32.const 1)) (i32x4.splat (local.get $n)))))

  (func $look (local $at i32)
    (call $must (i32.const 1) (i32.eq (memory.size) (i32.const 4)))
    (call $blank (i32.const 2) (i32.const 1024) (i32.const 0x21000))
    (call $must (i32.const 3) (i64.eq (i64.load (i32.const 0x21000)) (i64.const 0x65726568)))
    (call $blank (i32.const 4) (i32.const 0x21008) (i32.const 0x40000))
    (call $must (i32.const 5) (i32.eq (memory.grow (i32.const 4)) (i32.const 4)))
    (call $blank (i32.const 6) (i32.const 0x40000) (i32.const 0x80000))
    (memory.init $passive (i32.const 4096) (i32.const 0) (i32.const 7))
    (call $must (i32.const 7) (i32.eq (i32.load (i32.const 4096)) (i32.const 0x73736170)))
    (call $must (i32.const 8) (i32.eq (table.size $table) (i32.const 40)))
    (call $must (i32.const 9) (i32.eq (table.grow $table (ref.null func) (i32.const 40)) (i32.const 40)))
    (call $must (i32.const 10) (i32.eqz (ref.is_null (table.get $table (i32.const 0)))))
    (loop $next
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (call $must (i32.const 11) (ref.is_null (table.get $table (local.get $at))))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 79))))
    (table.init $table $elements (i32.const 1) (i32.const 0) (i32.const 2))
    (call $must (i32.const 12) (i32.eq (global.get $small) (i32.const 11)))
    (call $must (i32.const 13) (i64.eq (global.get $large) (i64.const 12)))
    (call $must (i32.const 14) (i32x4.all_true (i32x4.eq (global.get $lanes) (v128.const i32x4 1 2 3 4))))
    (call $must (i32.const 15) (ref.is_null (global.get $function))))

  (func $mark
    (memory.fill (i32.const 4096) (i32.const 0xa5) (i32.const 0x7f000))
    (table.fill $table (i32.const 0) (ref.func $mark) (i32.const 80))
    (data.drop $passive)
    (elem.drop $elements)
    (global.set $small (i32.const -1))
    (global.set $large (i64.const -1))
    (global.set $lanes (v128.const i32x4 -1 -1 -1 -1))
    (global.set $function (ref.func $mark)))

  (func $child (param $how i32)
    (call $look)
    (call $mark)
    (if (i32.eq (local.get $how) (i32.const 101)) (then (call $proc_exit (i32.const 100))))
    (if (i32.eq (local.get $how) (i32.const 111)) (then (drop (call $deep (i32.const 0) (global.get $lanes)))))
    (if (i32.eq (local.get $how) (i32.const 115)) (then (loop $for_ever (br $for_ever))))
    (unreachable))

  ;; Has a child end so: cause and status.
  (func $try (param $how i32) (param $cause i32) (param $status i32)
    (i32.store8 (i32.const 8) (local.get $how))
    (if (call $spawn (i32.const 64) (i32.const 208)) (then (unreachable)))
    (if (i32.eq (local.get $how) (i32.const 115))
      (then
        ;; It has a turn before, which is long enough.
        (drop (call $wait (i64.load (i32.const 208)) (i64.const 10000000) (i32.const 216)))
        (drop (call $kill (i64.load (i32.const 208))))))
    (if (call $wait (i64.load (i32.const 208)) (i64.const -1) (i32.const 216)) (then (unreachable)))
    (if (i32.ne (i32.load (i32.const 224)) (local.get $cause)) (then (unreachable)))
    (if (i32.ne (i32.load (i32.const 228)) (local.get $status)) (then (unreachable))))

  (func (export "_start") (local $round i32)
    (drop (call $args_sizes_get (i32.const 232) (i32.const 236)))
    (if (i32.gt_u (i32.load (i32.const 232)) (i32.const 1))
      (then
        (drop (call $args_get (i32.const 256) (i32.const 512)))
        (call $child (i32.load8_u (i32.load (i32.const 260))))))
    (loop $next
      (call $try (i32.const 101) (i32.const 0) (i32.const 100))
      (call $try (i32.const 116) (i32.const 1) (i32.const 134))
      (call $try (i32.const 111) (i32.const 1) (i32.const 134))
      (call $try (i32.const 115) (i32.const 3) (i32.const 130))
      (local.set $round (i32.add (local.get $round) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $round) (i32.const 25))))))
