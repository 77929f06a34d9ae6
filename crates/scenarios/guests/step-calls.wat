;; Calls of all kinds, stepped through: direct, indirect, recursive, tail calls, an exception that is caught.
(module
  (import "step" "begin" (func $begin))
  (import "step" "end" (func $end (result i32)))
  (type $number (func (param i32) (result i32)))
  (tag $odd (param i32))
  (table funcref (elem $double $sum $raise))
  (memory (export "memory") 1)

  (func $double (param $n i32) (result i32)
    (i32.add (local.get $n) (local.get $n)))

  ;; 1 + … + n, recursively.
  (func $sum (param $n i32) (result i32)
    (if (result i32) (i32.eqz (local.get $n))
      (then (i32.const 0))
      (else (i32.add (local.get $n) (call $sum (i32.sub (local.get $n) (i32.const 1)))))))

  ;; n added to the accumulator, by tail calls.
  (func $count (param $n i32) (param $all i32) (result i32)
    (if (i32.eqz (local.get $n)) (then (return (local.get $all))))
    (return_call $count (i32.sub (local.get $n) (i32.const 1)) (i32.add (local.get $all) (i32.const 3))))

  (func $raise (param $n i32) (result i32)
    (throw $odd (i32.add (local.get $n) (i32.const 1))))

  (func $caught (param $n i32) (result i32)
    (block $handler (result i32)
      (try_table (result i32) (catch $odd $handler)
        (call_indirect (type $number) (local.get $n) (i32.const 2)))))

  (func $must_be (param $is i32) (param $wanted i32)
    (if (i32.ne (local.get $is) (local.get $wanted)) (then (unreachable))))

  (func (export "_start")
    (call $begin)
    (call $must_be (call $double (i32.const 21)) (i32.const 42))
    (call $begin)
    (call $must_be (call $sum (i32.const 8)) (i32.const 36))
    (call $begin)
    (call $must_be (call $count (i32.const 5) (i32.const 0)) (i32.const 15))
    (call $begin)
    (call $must_be (call_indirect (type $number) (i32.const 2) (i32.const 1)) (i32.const 3))
    (call $begin)
    (call $must_be (call_indirect (type $number) (i32.const 6) (i32.const 0)) (i32.const 12))
    (call $begin)
    (call $must_be (call $caught (i32.const 76)) (i32.const 77))
    (call $begin)
    (if (call $end) (then (loop $for_ever (br $for_ever))))))
