/* OpenSSL 1.1 as .NET Core 3.1 looks for it: version 3, with the functions that it has under other names. csc and the
   test platform only make hashes with it. */
int EVP_MD_get_size(const void *digest);
int EVP_MD_size(const void *digest) { return EVP_MD_get_size(digest); }
void ERR_put_error(void) {}
void *SSL_get_peer_certificate(void) { return 0; }
