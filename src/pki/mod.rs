//! Certificate authority whose key is in a token; requests and revocation lists.
