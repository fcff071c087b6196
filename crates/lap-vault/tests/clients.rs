//! Programs that people really use accept the sandbox's certificates and see nothing of the vault. All of them have to be
//! there: `scripts/setup.sh test` installs what is missing. More programs, in a real sandbox: the tests `clients` of `lap`.
#![allow(clippy::unwrap_used)]

mod kit;

use std::process::Stdio;

use kit::Kit;

/// Runs a shell line with `$PROXY`, `$CA` and `$STUB`; its output.
async fn shell(kit: &Kit, ca: &std::path::Path, line: &str) -> String {
    let output = tokio::process::Command::new("sh")
        .args(["-c", line])
        .env("PROXY", kit.proxy.to_string())
        .env("CA", ca)
        .env("STUB", kit.stub("KEY"))
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_programs_go_through() {
    let kit = Kit::new(&["KEY=ghp_0123456789abcdefghijklmnopqrstuv @ api.test"]).await;
    let ca = std::env::temp_dir().join(format!("lap-vault-ca-{}.pem", std::process::id()));
    std::fs::write(&ca, kit.vault.ca_pem()).unwrap();
    let lines = [
        ("curl", "curl -sS --http1.1 --cacert $CA -x http://$PROXY -H \"x-api-key: $STUB\" https://api.test/"),
        ("curl", "curl -sS --http2 --cacert $CA -x http://$PROXY -H \"x-api-key: $STUB\" https://api.test/"),
        ("curl", "curl -sS --tls-max 1.2 --cacert $CA -x http://$PROXY -H \"x-api-key: $STUB\" https://api.test/"),
        (
            "wget",
            "wget -qO- --ca-certificate=$CA -e use_proxy=yes -e https_proxy=http://$PROXY --header \"x-api-key: $STUB\" https://api.test/",
        ),
        (
            "openssl",
            "printf 'GET / HTTP/1.1\\r\\nHost: api.test\\r\\nx-api-key: %s\\r\\nConnection: close\\r\\n\\r\\n' $STUB | openssl s_client -quiet -proxy $PROXY \
             -connect api.test:443 -servername api.test -CAfile $CA -x509_strict -verify_return_error -verify_hostname api.test -ign_eof",
        ),
        (
            "python3",
            "python3 -c \"import ssl,os,urllib.request as u; c=ssl.create_default_context(cafile=os.environ['CA']); \
             c.verify_flags |= ssl.VERIFY_X509_STRICT; \
             o=u.build_opener(u.ProxyHandler({'https':'http://'+os.environ['PROXY']}),u.HTTPSHandler(context=c)); \
             print(o.open(u.Request('https://api.test/',headers={'x-api-key':os.environ['STUB']})).read().decode())\"",
        ),
        (
            "node",
            "node -e \"const [h,p]=process.env.PROXY.split(':');require('http').request({host:h,port:p,method:'CONNECT',path:'api.test:443'}) \
             .on('connect',(r,s)=>require('https').get({host:'api.test',socket:s,agent:false,ca:require('fs').readFileSync(process.env.CA), \
             createConnection:()=>require('tls').connect({socket:s,servername:'api.test',ca:require('fs').readFileSync(process.env.CA)}), \
             headers:{'x-api-key':process.env.STUB}},r=>r.pipe(process.stdout))).end()\"",
        ),
    ];
    for (program, line) in lines {
        let there = shell(&kit, &ca, &format!("command -v {program}")).await.contains(program);
        assert!(there, "{program} is missing; scripts/setup.sh test installs it");
        let output = shell(&kit, &ca, line).await;
        assert!(
            output.contains("GET /\n") && output.contains(&format!("x-api-key: {}", kit.stub("KEY"))),
            "{line}:\n{output}"
        );
        let seen = kit.seen();
        assert_eq!(seen.last().unwrap().header("x-api-key"), "ghp_0123456789abcdefghijklmnopqrstuv", "{line}");
    }
    std::fs::remove_file(ca).unwrap();
}
