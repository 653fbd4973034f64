package it;

import com.sun.net.httpserver.HttpServer;
import java.io.File;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;

/**
 * The Java servers of the corpus: java it.App CERT KEY ADMIN-PORT {tomcat|netty}-{http1|http2}[-tls]:PORT…
 * GET /begun?id=… of the admin's port is 200 once a request with that id has arrived.
 */
public final class App {
  static final byte[] LARGE = "a large answer ".repeat(20_000).getBytes();
  static final Set<String> arrived = ConcurrentHashMap.newKeySet();

  public static void main(String[] args) throws Exception {
    File cert = new File(args[0]), key = new File(args[1]);
    var tomcat = new TomcatServer(cert, key);
    var netty = new NettyServer(cert, key);
    for (int i = 3; i < args.length; i++) {
      String kind = args[i].substring(0, args[i].indexOf(':'));
      int port = Integer.parseInt(args[i].substring(kind.length() + 1));
      boolean http2 = kind.contains("http2"), tls = kind.endsWith("tls");
      if (kind.startsWith("tomcat")) tomcat.listen(port, http2, tls);
      else netty.listen(port, http2, tls);
    }
    tomcat.start();
    var admin = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(args[2])), 64);
    admin.setExecutor(Executors.newFixedThreadPool(2));
    admin.createContext("/", e -> {
      String query = e.getRequestURI().getQuery();
      e.sendResponseHeaders(query == null || arrived.contains(query.substring("id=".length())) ? 200 : 404, -1);
      e.close();
    });
    admin.start();
  }

  /** The value of a query's parameter, "" without. */
  static String value(String query, String name) {
    if (query != null)
      for (String pair : query.split("&")) if (pair.startsWith(name + "=")) return pair.substring(name.length() + 1);
    return "";
  }
}
