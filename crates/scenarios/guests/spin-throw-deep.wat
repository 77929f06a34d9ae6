;; An endless loop over throwing an exception through a thousand of its own calls.
(module
  (tag $tag)
  (func $throw_below (param $depth i32)
    (if (local.get $depth)
      (then (call $throw_below (i32.sub (local.get $depth) (i32.const 1))))
      (else (throw $tag))))
  (func (export "_start")
    (loop $for_ever
      (block $caught
        (try_table (catch_all $caught) (call $throw_below (i32.const 1000))))
      (br $for_ever))))
