//! What the dynamic linker sees: the three ways to get at the function lists (PKCS#11 v3.1 §5.4).
#![expect(unreachable_pub, reason = "reached by the dynamic linker")]

use std::ffi::CStr;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use cryptoki_sys::*;
use libloading::Library;

use crate::gate::Gate;
use crate::mapping;
use crate::settings::{self, Settings};
use crate::wrap;

/// The one of this process; PKCS#11 state is per process. The wrapped module stays loaded.
static LOADED: OnceLock<Option<Loaded>> = OnceLock::new();

struct Loaded {
    gate: Gate,
    lists: Lists,
}

/// Our function lists and interfaces, newest first.
struct Lists {
    v2: CK_FUNCTION_LIST,
    interfaces: Vec<CK_INTERFACE>,
}

// SAFETY: the pointers lead to function lists that are never freed nor changed.
unsafe impl Send for Lists {}
// SAFETY: as above.
unsafe impl Sync for Lists {}

const PKCS11: &CStr = c"PKCS 11";

/// The gate, when the module could be loaded.
pub(crate) fn gate() -> Option<&'static Gate> {
    loaded().map(|loaded| &loaded.gate)
}

/// Everything that needs files happens here, once, before C_Initialize.
fn loaded() -> Option<&'static Loaded> {
    let load = || match Loaded::load() {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            eprintln!("fault module (TEST DOUBLE): {error}");
            None
        }
    };
    LOADED.get_or_init(load).as_ref()
}

impl Loaded {
    fn load() -> Result<Self, String> {
        let settings = Settings::read()?;
        let state = match &settings.state {
            Some(path) => {
                mapping::open(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            None => mapping::private().map_err(|error| format!("no state: {error}"))?,
        };
        if state
            .settled
            .compare_exchange(0, 1, AcqRel, Acquire)
            .is_ok()
        {
            settings.rules.iter().for_each(|rule| rule.apply(state));
        }
        let mut real = real_list(&settings.module)
            .map_err(|error| format!("{}: {error}", settings.module.display()))?;
        let lists = Lists::of(&real);
        real.C_GetFunctionList = Some(give_list);
        real.C_GetInterfaceList = Some(give_interfaces);
        real.C_GetInterface = Some(give_interface);
        Ok(Self {
            gate: Gate::new(real, state),
            lists,
        })
    }
}

/// The wrapped module's newest function list, in the form of v3.2.
fn real_list(path: &Path) -> Result<CK_FUNCTION_LIST_3_2, String> {
    let same = |own: &Path| own.canonicalize().ok() == path.canonicalize().ok();
    if settings::own_path().is_some_and(|own| same(&own)) {
        return Err("a fault module cannot wrap itself".to_owned());
    }
    // SAFETY: loading it runs its initialisers; the user chose it to be loaded.
    let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
    // It stays: threads may be inside, and its own state is bound to this process.
    let library = Box::leak(Box::new(library));
    newest_interface(library).map_or_else(|| v2_list(library), Ok)
}

fn newest_interface(library: &'static Library) -> Option<CK_FUNCTION_LIST_3_2> {
    type GetInterface = unsafe extern "C" fn(
        *mut CK_UTF8CHAR,
        *mut CK_VERSION,
        *mut *mut CK_INTERFACE,
        CK_FLAGS,
    ) -> CK_RV;
    // SAFETY: a symbol of this name has this type (PKCS#11 v3.0 §5.4.6).
    let get = unsafe { library.get::<GetInterface>(b"C_GetInterface\0") }.ok()?;
    let mut interface = ptr::null_mut();
    // SAFETY: NULL name and version ask for the default interface; the rest is a place to write to.
    let code = unsafe { get(ptr::null_mut(), ptr::null_mut(), &raw mut interface, 0) };
    if code != CKR_OK || interface.is_null() {
        return None;
    }
    // SAFETY: the module says that it is one.
    let list = unsafe { (*interface).pFunctionList };
    // SAFETY: all function lists begin with their version.
    let version = unsafe { *list.cast::<CK_VERSION>() };
    match (version.major, version.minor) {
        // SAFETY: the version says so.
        (3, 2..) => Some(unsafe { *list.cast::<CK_FUNCTION_LIST_3_2>() }),
        // SAFETY: the version says so.
        (3, _) => Some(unsafe { widened::<CK_FUNCTION_LIST_3_0>(list.cast()) }),
        _ => None,
    }
}

fn v2_list(library: &'static Library) -> Result<CK_FUNCTION_LIST_3_2, String> {
    type GetFunctionList = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;
    // SAFETY: a symbol of this name has this type (PKCS#11 v2.40 §5.4).
    let get = unsafe { library.get::<GetFunctionList>(b"C_GetFunctionList\0") }
        .map_err(|error| format!("it is no PKCS#11 module: {error}"))?;
    let mut list = ptr::null_mut();
    // SAFETY: a place to write to.
    let code = unsafe { get(&raw mut list) };
    if code != CKR_OK || list.is_null() {
        return Err(format!("C_GetFunctionList said {code:#x}"));
    }
    // SAFETY: the module says that it is one.
    Ok(unsafe { widened::<CK_FUNCTION_LIST>(list) })
}

/// An older list in the form of v3.2; what it does not have is `None`.
///
/// # Safety
/// `List` must be a leading part of CK_FUNCTION_LIST_3_2, and `list` point to one.
unsafe fn widened<List>(list: *const List) -> CK_FUNCTION_LIST_3_2 {
    // SAFETY: a version and optional functions, for which zero is a valid value.
    let mut wide: CK_FUNCTION_LIST_3_2 = unsafe { std::mem::zeroed() };
    // SAFETY: as the caller says; the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(list, (&raw mut wide).cast::<List>(), 1) };
    wide
}

// Each list is a leading part of the next.
const _: () = {
    use std::mem::offset_of;
    assert!(
        offset_of!(CK_FUNCTION_LIST, C_WaitForSlotEvent)
            == offset_of!(CK_FUNCTION_LIST_3_2, C_WaitForSlotEvent)
    );
    assert!(
        offset_of!(CK_FUNCTION_LIST_3_0, C_MessageVerifyFinal)
            == offset_of!(CK_FUNCTION_LIST_3_2, C_MessageVerifyFinal)
    );
};

impl Lists {
    fn of(real: &CK_FUNCTION_LIST_3_2) -> Self {
        let mut ours = wrap::wrapped(real);
        let newest = ours.version;
        if newest.major >= 3 {
            ours.C_GetInterfaceList = Some(wrap::C_GetInterfaceList);
            ours.C_GetInterface = Some(wrap::C_GetInterface);
        }
        let of_version = |major, minor| {
            let mut list = Box::new(ours);
            list.version = CK_VERSION { major, minor };
            Box::leak(list)
        };
        let mut versions = vec![newest];
        versions.extend(
            (newest.major == 3 && newest.minor >= 2).then_some(CK_VERSION { major: 3, minor: 0 }),
        );
        versions.extend((newest.major >= 3).then_some(CK_VERSION {
            major: 2,
            minor: 40,
        }));
        let interfaces: Vec<_> = versions
            .iter()
            .map(|version| CK_INTERFACE {
                pInterfaceName: PKCS11.as_ptr().cast_mut().cast(),
                pFunctionList: ptr::from_mut(of_version(version.major, version.minor)).cast(),
                flags: 0,
            })
            .collect();
        let oldest = interfaces
            .last()
            .map_or(ptr::null_mut(), |interface| interface.pFunctionList);
        // SAFETY: the lists made above begin with a list of v2.40.
        let v2 = unsafe { *oldest.cast::<CK_FUNCTION_LIST>() };
        Self { v2, interfaces }
    }
}

unsafe extern "C" fn give_list(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let Some(loaded) = loaded() else {
        return CKR_GENERAL_ERROR;
    };
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: the caller's place to write to. The list is not written to by anyone.
    unsafe { *list = (&raw const loaded.lists.v2).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn give_interfaces(interfaces: *mut CK_INTERFACE, count: *mut CK_ULONG) -> CK_RV {
    let Some(loaded) = loaded() else {
        return CKR_GENERAL_ERROR;
    };
    if count.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let ours = &loaded.lists.interfaces;
    // SAFETY: the caller's place to read from and write to.
    let room = unsafe { count.replace(ours.len() as CK_ULONG) };
    if interfaces.is_null() {
        return CKR_OK;
    }
    if room < ours.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: the caller says that there is room for so many.
    unsafe { ptr::copy_nonoverlapping(ours.as_ptr(), interfaces, ours.len()) };
    CKR_OK
}

unsafe extern "C" fn give_interface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    let Some(loaded) = loaded() else {
        return CKR_GENERAL_ERROR;
    };
    if interface.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: the caller's C string.
    let named = name.is_null() || unsafe { CStr::from_ptr(name.cast()) } == PKCS11;
    let wanted = (!version.is_null()).then(|| {
        // SAFETY: the caller's version, not NULL.
        unsafe { *version }
    });
    let fits = |ours: &&CK_INTERFACE| {
        // SAFETY: our own list, which begins with its version.
        let version = unsafe { *ours.pFunctionList.cast::<CK_VERSION>() };
        named
            && flags & !ours.flags == 0
            && wanted
                .is_none_or(|wanted| (wanted.major, wanted.minor) == (version.major, version.minor))
    };
    match loaded.lists.interfaces.iter().find(fits) {
        Some(found) => {
            // SAFETY: the caller's place to write to. The interface is not written to by anyone.
            unsafe { *interface = ptr::from_ref(found).cast_mut() };
            CKR_OK
        }
        None => CKR_FUNCTION_FAILED,
    }
}

/// PKCS#11 v2.40 §5.4: the function list.
///
/// # Safety
/// `list` is NULL or a place to write a pointer to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: as the caller says.
    unsafe { wrap::C_GetFunctionList(list) }
}

/// PKCS#11 v3.0 §5.4.5: all interfaces.
///
/// # Safety
/// `count` is NULL or a valid place; `interfaces` is NULL or has room for `*count` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(
    interfaces: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: as the caller says.
    unsafe { wrap::C_GetInterfaceList(interfaces, count) }
}

/// PKCS#11 v3.0 §5.4.6: one interface.
///
/// # Safety
/// `name` is NULL or a C string, `version` NULL or one, `interface` NULL or a place to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    // SAFETY: as the caller says.
    unsafe { wrap::C_GetInterface(name, version, interface, flags) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(real: &CK_FUNCTION_LIST_3_2) -> Vec<(u8, u8)> {
        let lists = Lists::of(real);
        // SAFETY: the pointer leads to a list that begins with its version.
        let version = |list: *mut std::ffi::c_void| unsafe { *list.cast::<CK_VERSION>() };
        let versions = lists
            .interfaces
            .iter()
            .map(|interface| version(interface.pFunctionList));
        versions
            .map(|version| (version.major, version.minor))
            .collect()
    }

    #[test]
    fn older_interfaces_are_offered_beside_the_newest() {
        unsafe extern "C" fn nothing(_: CK_SESSION_HANDLE) -> CK_RV {
            CKR_OK
        }
        let old = CK_FUNCTION_LIST {
            C_FindObjectsFinal: Some(nothing),
            // SAFETY: a version and optional functions, for which zero is a valid value.
            ..unsafe { std::mem::zeroed() }
        };
        // SAFETY: v2.40 is the leading part of v3.2.
        let mut real = unsafe { widened(&raw const old) };
        assert!(real.C_FindObjectsFinal.is_some() && real.C_SignInit.is_none());
        for (major, minor, offered) in [
            (2, 40, &[(2, 40)][..]),
            (3, 0, &[(3, 0), (2, 40)]),
            (3, 2, &[(3, 2), (3, 0), (2, 40)]),
        ] {
            real.version = CK_VERSION { major, minor };
            assert_eq!(versions(&real), offered);
        }
        let ours = wrap::wrapped(&real);
        assert!(ours.C_FindObjectsFinal.is_some() && ours.C_SignInit.is_none());
    }
}
