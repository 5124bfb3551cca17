//! The wrappers: one C function for each of the table, made from it.

use std::ffi::c_void;

use cryptoki_sys::*;

use crate::exports;
use crate::functions::{Function, every_function};
use crate::gate::Call;
use crate::special;

macro_rules! wrap {
    ($($class:ident $name:ident ($first:ident: $first_type:ty $(, $arg:ident: $type:ty)*)
        $(query($query:ident))? $(signs($out:ident, $length:ident))? $(hook($hook:ident))?;)*) => {
        $(
            pub(crate) unsafe extern "C" fn $name($first: $first_type $(, $arg: $type)*) -> CK_RV {
                let Some(gate) = exports::gate() else { return CKR_CRYPTOKI_NOT_INITIALIZED };
                let Some(real) = gate.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
                let call = Call {
                    function: Function::$name,
                    session: wrap!(@session $class $first),
                    query: false $(|| $query.is_null())? $(|| $out.is_null())?,
                    signature: wrap!(@signature $($out, $length)?),
                };
                gate.pass(&call, || wrap!(@real gate, real, [$($hook)?], $first $(, $arg)*))
            }
        )*

        /// `real` with every function that it has replaced by its wrapper.
        pub(crate) fn wrapped(real: &CK_FUNCTION_LIST_3_2) -> CK_FUNCTION_LIST_3_2 {
            CK_FUNCTION_LIST_3_2 {
                version: real.version,
                $($name: real.$name.and(Some($name)),)*
            }
        }
    };
    (@session session $session:ident) => { Some($session) };
    (@session key $session:ident) => { Some($session) };
    (@session $class:ident $first:ident) => { None };
    (@signature) => { None };
    (@signature $out:ident, $length:ident) => { Some(($out, $length)) };
    (@real $gate:ident, $real:ident, [], $($arg:ident),*) => {
        // SAFETY: the wrapped module's own function with the caller's own arguments.
        unsafe { $real($($arg),*) }
    };
    (@real $gate:ident, $real:ident, [$hook:ident], $($arg:ident),*) => {
        // SAFETY: the caller's own arguments, which the hook passes on.
        unsafe { special::$hook($gate, $real, $($arg),*) }
    };
}

#[expect(non_snake_case, reason = "the specification's names")]
mod functions {
    use super::*;
    every_function!(wrap);
}
pub(crate) use functions::{C_GetFunctionList, C_GetInterface, C_GetInterfaceList, wrapped};
