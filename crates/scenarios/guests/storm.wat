;; Never ends: does at random what a program can do.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (type $number (func (param i32) (result i32)))
  (tag $thrown (param i32))
  (memory (export "memory") 1 3)
  (table $table 4 64 funcref)
  (elem $functions func $deep $raise)
  (global $random (mut i64) (i64.const 0))

  (func $below (param $limit i32) (result i32)
    (global.set $random
      (i64.add (i64.mul (global.get $random) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
    (i32.rem_u (i32.wrap_i64 (i64.shr_u (global.get $random) (i64.const 33))) (local.get $limit)))

  (func $must (param $holds i32)
    (if (i32.eqz (local.get $holds)) (then (unreachable))))

  (func $deep (param $n i32) (result i32)
    (if (result i32) (i32.eqz (local.get $n))
      (then (i32.const 0))
      (else (i32.add (i32.const 1) (call $deep (i32.sub (local.get $n) (i32.const 1)))))))

  (func $raise (param $n i32) (result i32)
    (throw $thrown (local.get $n)))

  (func $caught (param $n i32) (result i32)
    (block $handler (result i32)
      (try_table (result i32) (catch $thrown $handler)
        (call_indirect (type $number) (local.get $n) (i32.const 1)))))

  (func $tail (param $n i32) (param $all i32) (result i32)
    (if (i32.eqz (local.get $n)) (then (return (local.get $all))))
    (return_call $tail (i32.sub (local.get $n) (i32.const 1)) (i32.add (local.get $all) (i32.const 1))))

  (func $lanes (param $n i32) (result i32) (local $sum v128)
    (loop $next
      (local.set $sum (i32x4.add (local.get $sum) (v128.const i32x4 1 2 3 4)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $next (local.get $n)))
    (i32x4.extract_lane 3 (local.get $sum)))

  ;; Until a time in at most four milliseconds.
  (func $sleep
    (memory.fill (i32.const 1024) (i32.const 0) (i32.const 48))
    (i32.store (i32.const 1040) (i32.const 1))
    (i64.store (i32.const 1048) (i64.extend_i32_u (call $below (i32.const 4000000))))
    (call $must (i32.eqz (call $poll_oneoff (i32.const 1024) (i32.const 1088) (i32.const 1) (i32.const 1152)))))

  (func (export "_start")
    (call $must (i32.eqz (call $random_get (i32.const 0) (i32.const 8))))
    (global.set $random (i64.load (i32.const 0)))
    (table.init $table $functions (i32.const 0) (i32.const 0) (i32.const 2))
    (loop $again
      (block $done
        (block $sleep (block $host (block $grow (block $tables (block $copy (block $lanes (block $tail (block $catch (block $deep
          (br_table $deep $catch $tail $lanes $copy $tables $grow $host $sleep (call $below (i32.const 9))))
          (call $must (i32.eq (call_indirect (type $number) (i32.const 500) (i32.const 0)) (i32.const 500)))
          (br $done))
          (call $must (i32.eq (call $caught (i32.const 7)) (i32.const 7)))
          (br $done))
          (call $must (i32.eq (call $tail (i32.const 2000) (i32.const 0)) (i32.const 2000)))
          (br $done))
          (call $must (i32.eq (call $lanes (i32.const 1000)) (i32.const 4000)))
          (br $done))
          (memory.fill (i32.const 4096) (i32.const 90) (i32.const 30000))
          (memory.copy (i32.const 4097) (i32.const 4096) (i32.const 29999))
          (call $must (i32.eq (i32.load8_u (i32.const 34000)) (i32.const 90)))
          (br $done))
          (drop (table.grow $table (ref.null func) (i32.const 1)))
          (table.copy $table $table (i32.const 2) (i32.const 0) (i32.const 2))
          (table.fill $table (i32.const 2) (ref.null func) (i32.const 2))
          (br $done))
          (drop (memory.grow (call $below (i32.const 2))))
          (br $done))
          (call $must (i32.eqz (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 64))))
          (call $must (i32.eqz (call $sched_yield)))
          (call $must (i32.eqz (call $random_get (i32.const 256) (i32.const 64))))
          (call $must (i32.eq (call $fd_fdstat_get (i32.const 99) (i32.const 128)) (i32.const 8))) ;; EBADF
          (br $done))
        (call $sleep))
      (br $again))))
