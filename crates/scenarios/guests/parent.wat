;; Starts `child`ren, and exits with the number of the first check that fails, or with 0. It was given the directory 3, and may start `child`
;; and nothing else; its domain has room for four more processes, and `child` may use 2 MiB.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (import "selkis_process" "kill" (func $kill (param i64) (result i32)))
  (import "selkis_process" "list" (func $list (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "child")
  (data (i32.const 16) "other")
  (data (i32.const 32) "child\00")
  (data (i32.const 48) "nobody\00")
  (data (i32.const 64) "\03\00\00\00" "\01\00\00\00")
  (data (i32.const 80) "A=b\00" "EMPTY=\00")
  (data (i32.const 96) "\03\00\00\00" "\03\00\00\00" "child\00" "child\00")
  ;; The arguments: argv[0], then what it is to do.
  (data (i32.const 128) "x\00" "0\00" "x\00" "7\00" "x\00" "t\00" "x\00" "s\00" "x\00" "m\00" "x\00" "w\00" "x\00" "d\00" "x\00" "c\00")
  (data (i32.const 192) "x\00" "z\00" "x\00" "i\00" "x\00" "1\00")
  ;; 256: the record of the next child. 336: its number. 344: how it ended. 384: the list. 512: numbers of children.

  (func $must (param $check i32) (param $holds i32)
    (if (i32.eqz (local.get $holds)) (then (call $proc_exit (local.get $check)))))

  ;; A record of a child with these arguments, and nothing else.
  (func $plain (param $arguments i32)
    (memory.fill (i32.const 256) (i32.const 0) (i32.const 72))
    (i32.store (i32.const 260) (i32.const 5))
    (i32.store (i32.const 264) (local.get $arguments))
    (i32.store (i32.const 268) (i32.const 4)))

  (func $start (result i32)
    (call $spawn (i32.const 256) (i32.const 336)))

  (func $child (result i64)
    (i64.load (i32.const 336)))

  (func $wait_for (param $child i64) (result i32)
    (call $wait (local.get $child) (i64.const -1) (i32.const 344)))

  ;; Starts the child of the record and waits for its end, which must be this.
  (func $must_end (param $check i32) (param $cause i32) (param $status i32)
    (call $must (local.get $check) (i32.eqz (call $start)))
    (call $must (local.get $check) (i32.eqz (call $wait_for (call $child))))
    (call $ended (local.get $check) (call $child) (local.get $cause) (local.get $status)))

  (func $ended (param $check i32) (param $child i64) (param $cause i32) (param $status i32)
    (call $must (local.get $check) (i64.eq (i64.load (i32.const 344)) (local.get $child)))
    (call $must (local.get $check) (i32.eq (i32.load (i32.const 352)) (local.get $cause)))
    (call $must (local.get $check) (i32.eq (i32.load (i32.const 356)) (local.get $status))))

  (func $ends
    ;; The end of one that exits, and nothing of it afterwards.
    (call $plain (i32.const 132))
    (call $must_end (i32.const 1) (i32.const 0) (i32.const 7))
    (call $must (i32.const 2) (i32.eq (call $wait_for (call $child)) (i32.const 12)))
    (call $must (i32.const 3) (i32.eq (call $kill (call $child)) (i32.const 71)))
    ;; What never was, and any of none.
    (call $must (i32.const 4) (i32.eq (call $wait_for (i64.const 99)) (i32.const 12)))
    (call $must (i32.const 5) (i32.eq (call $kill (i64.const -1)) (i32.const 71)))
    (call $must (i32.const 6) (i32.eq (call $wait_for (i64.const 0)) (i32.const 12)))
    (call $plain (i32.const 136))
    (call $must_end (i32.const 7) (i32.const 1) (i32.const 134))
    ;; One that never ends, until it is made to.
    (call $plain (i32.const 140))
    (call $must (i32.const 8) (i32.eqz (call $start)))
    (call $must (i32.const 9) (i32.eq (call $wait (call $child) (i64.const 0) (i32.const 344)) (i32.const 6)))
    (call $must (i32.const 10) (i32.eq (call $wait (i64.const 0) (i64.const 20000000) (i32.const 344)) (i32.const 6)))
    (call $must (i32.const 11) (i32.eqz (call $list (i32.const 384) (i32.const 8) (i32.const 376))))
    (call $must (i32.const 12) (i32.eq (i32.load (i32.const 376)) (i32.const 1)))
    (call $must (i32.const 13) (i64.eq (i64.load (i32.const 384)) (call $child)))
    (call $must (i32.const 14) (i32.eqz (i32.load (i32.const 392))))
    (call $must (i32.const 15) (i32.eqz (call $kill (call $child))))
    (call $must (i32.const 16) (i32.eqz (call $wait_for (call $child))))
    (call $ended (i32.const 17) (call $child) (i32.const 3) (i32.const 130))
    ;; One that waits.
    (call $plain (i32.const 192))
    (call $must (i32.const 18) (i32.eqz (call $start)))
    (call $must (i32.const 19) (i32.eqz (call $kill (call $child))))
    (call $must (i32.const 20) (i32.eqz (call $wait_for (i64.const 0))))
    (call $ended (i32.const 21) (call $child) (i32.const 3) (i32.const 130)))

  (func $limits
    ;; CPU time, time, memory; less memory than it begins with.
    (call $plain (i32.const 140))
    (i64.store (i32.const 304) (i64.const 5000000))
    (call $must_end (i32.const 31) (i32.const 2) (i32.const 124))
    (call $plain (i32.const 192))
    (i64.store (i32.const 312) (i64.const 20000000))
    (call $must_end (i32.const 32) (i32.const 2) (i32.const 124))
    (call $plain (i32.const 144))
    (call $must_end (i32.const 33) (i32.const 0) (i32.const 32))
    (call $plain (i32.const 144))
    (i64.store (i32.const 296) (i64.const 196608))
    (call $must_end (i32.const 34) (i32.const 0) (i32.const 3))
    ;; More than its program may have is no more.
    (i64.store (i32.const 296) (i64.const -1))
    (call $must_end (i32.const 35) (i32.const 0) (i32.const 32))
    (i64.store (i32.const 296) (i64.const 4096))
    (call $must_end (i32.const 36) (i32.const 5) (i32.const 125))
    ;; Fewer descriptors than its streams are.
    (call $plain (i32.const 128))
    (i32.store (i32.const 320) (i32.const 2))
    (call $must (i32.const 37) (i32.eq (call $start) (i32.const 33))))

  (func $grants
    ;; What it was not given: other programs of its domain, programs that are not there.
    (call $plain (i32.const 128))
    (i32.store (i32.const 256) (i32.const 16))
    (call $must (i32.const 41) (i32.eq (call $start) (i32.const 76)))
    (call $plain (i32.const 128))
    (i32.store (i32.const 288) (i32.const 48))
    (i32.store (i32.const 292) (i32.const 7))
    (call $must (i32.const 42) (i32.eq (call $start) (i32.const 76)))
    ;; A directory, if it is passed on; a stream is none.
    (call $plain (i32.const 152))
    (call $must_end (i32.const 43) (i32.const 0) (i32.const 8))
    (i32.store (i32.const 280) (i32.const 64))
    (i32.store (i32.const 284) (i32.const 1))
    (call $must_end (i32.const 44) (i32.const 0) (i32.const 0))
    (i32.store (i32.const 280) (i32.const 68))
    (call $must (i32.const 45) (i32.eq (call $start) (i32.const 76)))
    ;; Nothing comes twice.
    (i32.store (i32.const 280) (i32.const 96))
    (i32.store (i32.const 284) (i32.const 2))
    (call $must (i32.const 50) (i32.eq (call $start) (i32.const 28)))
    (call $plain (i32.const 128))
    (i32.store (i32.const 288) (i32.const 104))
    (i32.store (i32.const 292) (i32.const 12))
    (call $must (i32.const 50) (i32.eq (call $start) (i32.const 28)))
    ;; To start others, if that is passed on.
    (call $plain (i32.const 156))
    (call $must_end (i32.const 46) (i32.const 0) (i32.const 76))
    (i32.store (i32.const 288) (i32.const 32))
    (i32.store (i32.const 292) (i32.const 6))
    (call $must_end (i32.const 47) (i32.const 0) (i32.const 5))
    ;; Nothing to read.
    (call $plain (i32.const 196))
    (call $must_end (i32.const 48) (i32.const 0) (i32.const 10))
    ;; Words.
    (call $plain (i32.const 148))
    (i32.store (i32.const 272) (i32.const 80))
    (i32.store (i32.const 276) (i32.const 11))
    (call $must_end (i32.const 49) (i32.const 0) (i32.const 0)))

  ;; As many as there can be, one of which has ended, and one more than that.
  (func $quota (local $count i32)
    (call $plain (i32.const 192))
    (loop $next
      (if (i32.eq (local.get $count) (i32.const 3)) (then (call $plain (i32.const 200))))
      (call $must (i32.const 51) (i32.eqz (call $start)))
      (i64.store (i32.add (i32.const 512) (i32.mul (local.get $count) (i32.const 8))) (call $child))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $count) (i32.const 4))))
    (call $must (i32.const 52) (i32.eq (call $start) (i32.const 6)))
    ;; Any: the one that has ended.
    (call $must (i32.const 53) (i32.eqz (call $wait_for (i64.const 0))))
    (call $ended (i32.const 54) (i64.load (i32.const 536)) (i32.const 0) (i32.const 1))
    ;; There is room for another, that ends; until then it is in the way.
    (call $must (i32.const 55) (i32.eqz (call $start)))
    (call $must (i32.const 56) (i32.eqz (call $list (i32.const 384) (i32.const 2) (i32.const 376))))
    (call $must (i32.const 57) (i32.eq (i32.load (i32.const 376)) (i32.const 4)))
    (call $must (i32.const 58) (i64.eq (i64.load (i32.const 400)) (i64.load (i32.const 520))))
    (call $must (i32.const 59) (i64.eqz (i64.load (i32.const 416))))
    (call $must (i32.const 60) (i32.eq (call $start) (i32.const 6)))
    (call $must (i32.const 61) (i32.eqz (call $wait_for (call $child))))
    (local.set $count (i32.const 0))
    (loop $next
      (call $must (i32.const 62) (i32.eqz (call $kill (i64.load (i32.add (i32.const 512) (i32.mul (local.get $count) (i32.const 8)))))))
      (call $must (i32.const 63) (i32.eqz (call $wait_for (i64.const 0))))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $count) (i32.const 3))))
    (call $must (i32.const 64) (i32.eq (call $wait_for (i64.const 0)) (i32.const 12))))

  ;; Many, one after the other.
  (func $again (local $left i32)
    (local.set $left (i32.const 100))
    (call $plain (i32.const 132))
    (loop $next
      (call $must_end (i32.const 71) (i32.const 0) (i32.const 7))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left))))

  (func (export "_start")
    (call $ends)
    (call $limits)
    (call $grants)
    (call $quota)
    (call $again)))
