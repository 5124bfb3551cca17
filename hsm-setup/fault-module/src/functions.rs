//! Every function of PKCS#11 v2.40, v3.0 and v3.2, once: the enumeration, the wrappers and the
//! counters are made from this table.

/// How a rule may refer to a function, and what the gate has to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Of the module as a whole; not part of `all`.
    Plain,
    /// Talks to a slot or token.
    Slot,
    /// Works in a session.
    Session,
    /// Works in a session and needs the user's login (the use of private and secret keys).
    Key,
}

/// Calls `$with!` with the table. One line a function: class, name, parameters in the order of the
/// specification, and
/// - `query(out)`: a NULL `out` only asks for the size; the rules let such a call pass,
/// - `signs(out, length)`: the same, and `out` is a signature that may be corrupted,
/// - `hook(f)`: `special::f` stands between the gate and the wrapped function.
macro_rules! every_function {
    ($with:ident) => {
        $with! {
            // PKCS#11 v2.40
            plain C_Initialize(a1: *mut c_void) hook(initialize);
            plain C_Finalize(a1: *mut c_void) hook(finalize);
            plain C_GetInfo(a1: *mut CK_INFO) hook(info);
            plain C_GetFunctionList(a1: *mut *mut CK_FUNCTION_LIST);
            slot C_GetSlotList(a1: CK_BBOOL, out: *mut CK_SLOT_ID, length: *mut CK_ULONG) query(out);
            slot C_GetSlotInfo(slot: CK_SLOT_ID, a2: *mut CK_SLOT_INFO) hook(slot_info);
            slot C_GetTokenInfo(slot: CK_SLOT_ID, a2: *mut CK_TOKEN_INFO) hook(token_info);
            slot C_GetMechanismList(slot: CK_SLOT_ID, out: *mut CK_MECHANISM_TYPE, length: *mut CK_ULONG) query(out);
            slot C_GetMechanismInfo(slot: CK_SLOT_ID, a2: CK_MECHANISM_TYPE, a3: *mut CK_MECHANISM_INFO);
            slot C_InitToken(slot: CK_SLOT_ID, a2: *mut CK_UTF8CHAR, a3: CK_ULONG, a4: *mut CK_UTF8CHAR);
            key C_InitPIN(session: CK_SESSION_HANDLE, a2: *mut CK_UTF8CHAR, a3: CK_ULONG);
            session C_SetPIN(session: CK_SESSION_HANDLE, a2: *mut CK_UTF8CHAR, a3: CK_ULONG, a4: *mut CK_UTF8CHAR, a5: CK_ULONG);
            slot C_OpenSession(slot: CK_SLOT_ID, a2: CK_FLAGS, a3: *mut c_void, a4: CK_NOTIFY, a5: *mut CK_SESSION_HANDLE) hook(open_session);
            session C_CloseSession(session: CK_SESSION_HANDLE) hook(close_session);
            slot C_CloseAllSessions(slot: CK_SLOT_ID) hook(close_all_sessions);
            session C_GetSessionInfo(session: CK_SESSION_HANDLE, a2: *mut CK_SESSION_INFO);
            session C_GetOperationState(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_SetOperationState(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, a4: CK_OBJECT_HANDLE, a5: CK_OBJECT_HANDLE);
            session C_Login(session: CK_SESSION_HANDLE, a2: CK_USER_TYPE, a3: *mut CK_UTF8CHAR, a4: CK_ULONG) hook(login);
            session C_Logout(session: CK_SESSION_HANDLE);
            session C_CreateObject(session: CK_SESSION_HANDLE, a2: *mut CK_ATTRIBUTE, a3: CK_ULONG, a4: *mut CK_OBJECT_HANDLE);
            session C_CopyObject(session: CK_SESSION_HANDLE, a2: CK_OBJECT_HANDLE, a3: *mut CK_ATTRIBUTE, a4: CK_ULONG, a5: *mut CK_OBJECT_HANDLE);
            session C_DestroyObject(session: CK_SESSION_HANDLE, a2: CK_OBJECT_HANDLE);
            session C_GetObjectSize(session: CK_SESSION_HANDLE, a2: CK_OBJECT_HANDLE, a3: *mut CK_ULONG);
            session C_GetAttributeValue(session: CK_SESSION_HANDLE, a2: CK_OBJECT_HANDLE, a3: *mut CK_ATTRIBUTE, a4: CK_ULONG);
            session C_SetAttributeValue(session: CK_SESSION_HANDLE, a2: CK_OBJECT_HANDLE, a3: *mut CK_ATTRIBUTE, a4: CK_ULONG);
            session C_FindObjectsInit(session: CK_SESSION_HANDLE, a2: *mut CK_ATTRIBUTE, a3: CK_ULONG);
            session C_FindObjects(session: CK_SESSION_HANDLE, a2: *mut CK_OBJECT_HANDLE, a3: CK_ULONG, a4: *mut CK_ULONG);
            session C_FindObjectsFinal(session: CK_SESSION_HANDLE);
            session C_EncryptInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            session C_Encrypt(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_EncryptUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_EncryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_DecryptInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            key C_Decrypt(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_DecryptUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_DecryptFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_DigestInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM);
            session C_Digest(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_DigestUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_DigestKey(session: CK_SESSION_HANDLE, a2: CK_OBJECT_HANDLE);
            session C_DigestFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_SignInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            key C_Sign(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) signs(out, length);
            key C_SignUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            key C_SignFinal(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, length: *mut CK_ULONG) signs(out, length);
            key C_SignRecoverInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            key C_SignRecover(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) signs(out, length);
            session C_VerifyInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            session C_Verify(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG);
            session C_VerifyUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_VerifyFinal(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_VerifyRecoverInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            session C_VerifyRecover(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_DigestEncryptUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_DecryptDigestUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_SignEncryptUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_DecryptVerifyUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_GenerateKey(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: *mut CK_ATTRIBUTE, a4: CK_ULONG, a5: *mut CK_OBJECT_HANDLE);
            key C_GenerateKeyPair(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: *mut CK_ATTRIBUTE, a4: CK_ULONG, a5: *mut CK_ATTRIBUTE, a6: CK_ULONG, a7: *mut CK_OBJECT_HANDLE, a8: *mut CK_OBJECT_HANDLE);
            key C_WrapKey(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: CK_OBJECT_HANDLE, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_UnwrapKey(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: *mut CK_BYTE, a5: CK_ULONG, a6: *mut CK_ATTRIBUTE, a7: CK_ULONG, a8: *mut CK_OBJECT_HANDLE);
            key C_DeriveKey(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: *mut CK_ATTRIBUTE, a5: CK_ULONG, a6: *mut CK_OBJECT_HANDLE);
            session C_SeedRandom(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_GenerateRandom(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_GetFunctionStatus(session: CK_SESSION_HANDLE);
            session C_CancelFunction(session: CK_SESSION_HANDLE);
            slot C_WaitForSlotEvent(a1: CK_FLAGS, a2: *mut CK_SLOT_ID, a3: *mut c_void);
            // PKCS#11 v3.0
            plain C_GetInterfaceList(out: *mut CK_INTERFACE, length: *mut CK_ULONG) query(out);
            plain C_GetInterface(a1: *mut CK_UTF8CHAR, a2: *mut CK_VERSION, a3: *mut *mut CK_INTERFACE, a4: CK_FLAGS);
            session C_LoginUser(session: CK_SESSION_HANDLE, a2: CK_USER_TYPE, a3: *mut CK_UTF8CHAR, a4: CK_ULONG, a5: *mut CK_UTF8CHAR, a6: CK_ULONG) hook(login_user);
            session C_SessionCancel(session: CK_SESSION_HANDLE, a2: CK_FLAGS);
            session C_MessageEncryptInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            session C_EncryptMessage(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, a6: *mut CK_BYTE, a7: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            session C_EncryptMessageBegin(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG);
            session C_EncryptMessageNext(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG, a8: CK_FLAGS) query(out);
            session C_MessageEncryptFinal(session: CK_SESSION_HANDLE);
            key C_MessageDecryptInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            key C_DecryptMessage(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, a6: *mut CK_BYTE, a7: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_DecryptMessageBegin(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG);
            key C_DecryptMessageNext(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG, a8: CK_FLAGS) query(out);
            key C_MessageDecryptFinal(session: CK_SESSION_HANDLE);
            key C_MessageSignInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            key C_SignMessage(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) signs(out, length);
            key C_SignMessageBegin(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG);
            key C_SignMessageNext(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) signs(out, length);
            key C_MessageSignFinal(session: CK_SESSION_HANDLE);
            session C_MessageVerifyInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE);
            session C_VerifyMessage(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, a6: *mut CK_BYTE, a7: CK_ULONG);
            session C_VerifyMessageBegin(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG);
            session C_VerifyMessageNext(session: CK_SESSION_HANDLE, a2: *mut c_void, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG, a6: *mut CK_BYTE, a7: CK_ULONG);
            session C_MessageVerifyFinal(session: CK_SESSION_HANDLE);
            // PKCS#11 v3.2
            session C_EncapsulateKey(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: *mut CK_ATTRIBUTE, a5: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG, a8: *mut CK_OBJECT_HANDLE) query(out);
            key C_DecapsulateKey(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: *mut CK_ATTRIBUTE, a5: CK_ULONG, a6: *mut CK_BYTE, a7: CK_ULONG, a8: *mut CK_OBJECT_HANDLE);
            session C_VerifySignatureInit(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: *mut CK_BYTE, a5: CK_ULONG);
            session C_VerifySignature(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_VerifySignatureUpdate(session: CK_SESSION_HANDLE, a2: *mut CK_BYTE, a3: CK_ULONG);
            session C_VerifySignatureFinal(session: CK_SESSION_HANDLE);
            session C_GetSessionValidationFlags(session: CK_SESSION_HANDLE, a2: CK_SESSION_VALIDATION_FLAGS_TYPE, a3: *mut CK_FLAGS);
            session C_AsyncComplete(session: CK_SESSION_HANDLE, a2: *mut CK_UTF8CHAR, a3: *mut CK_ASYNC_DATA);
            session C_AsyncGetID(session: CK_SESSION_HANDLE, a2: *mut CK_UTF8CHAR, a3: *mut CK_ULONG);
            session C_AsyncJoin(session: CK_SESSION_HANDLE, a2: *mut CK_UTF8CHAR, a3: CK_ULONG, a4: *mut CK_BYTE, a5: CK_ULONG);
            key C_WrapKeyAuthenticated(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: CK_OBJECT_HANDLE, a5: *mut CK_BYTE, a6: CK_ULONG, out: *mut CK_BYTE, length: *mut CK_ULONG) query(out);
            key C_UnwrapKeyAuthenticated(session: CK_SESSION_HANDLE, a2: *mut CK_MECHANISM, a3: CK_OBJECT_HANDLE, a4: *mut CK_BYTE, a5: CK_ULONG, a6: *mut CK_ATTRIBUTE, a7: CK_ULONG, a8: *mut CK_BYTE, a9: CK_ULONG, a10: *mut CK_OBJECT_HANDLE);
        }
    };
}
pub(crate) use every_function;

macro_rules! enumerate {
    ($($class:ident $name:ident ($($arg:ident: $type:ty),*)
        $(query($query:ident))? $(signs($out:ident, $length:ident))? $(hook($hook:ident))?;)*) => {
        /// A function of PKCS#11; its number is its place in the shared state.
        #[expect(non_camel_case_types, missing_docs, reason = "the specification's names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Function { $($name),* }

        impl Function {
            /// All of them, in the specification's order.
            pub const ALL: &[Function] = &[$(Function::$name),*];
            const NAMES: &[&str] = &[$(stringify!($name)),*];
            const CLASSES: &[Class] = &[$(enumerate!(@class $class)),*];
            const SIGNS: &[bool] = &[$(false $(|| enumerate!(@true $out))?),*];
        }
    };
    (@class plain) => { Class::Plain };
    (@class slot) => { Class::Slot };
    (@class session) => { Class::Session };
    (@class key) => { Class::Key };
    (@true $any:ident) => { true };
}
every_function!(enumerate);

impl Function {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What it works on.
    pub fn class(self) -> Class {
        Self::CLASSES[self as usize]
    }

    /// Whether it returns a signature.
    pub fn signs(self) -> bool {
        Self::SIGNS[self as usize]
    }

    /// Finds it by its name: `C_Sign`, or `sign`.
    pub fn named(name: &str) -> Option<Self> {
        let bare = name.strip_prefix("C_").unwrap_or(name);
        Self::ALL
            .iter()
            .copied()
            .find(|function| function.name()[2..].eq_ignore_ascii_case(bare))
    }
}
