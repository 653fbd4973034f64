package it;

import com.alibaba.nacos.api.NacosFactory;
import com.alibaba.nacos.api.naming.NamingService;
import com.alibaba.nacos.api.naming.listener.NamingEvent;
import com.alibaba.nacos.api.naming.pojo.Instance;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;

import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;

/**
 * Many apps and callers with the official client in one JVM, each with its own connection. Commands come over HTTP; one
 * that is answered 200 has been done, the other answers hold the exception.
 *   /register    id server [user password namespace group cluster ephemeral weight metadata=k=v,…] service ip port
 *   /deregister  id            in order, and close
 *   /close       id            as the death of the app does
 *   /subscribe   id server [user password namespace group] service
 *   /seen        id            a line for each change: epoch milliseconds, then the addresses that a caller may call
 */
public class Client {
    interface Command {
        String run(Map<String, String> q) throws Exception;
    }

    record App(NamingService naming, String service, String group, Instance instance) { }

    private static final Map<String, App> APPS = new ConcurrentHashMap<>();
    private static final Map<String, List<String>> SEEN = new ConcurrentHashMap<>();

    public static void main(String[] args) throws Exception {
        HttpServer http = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 100);
        http.setExecutor(Executors.newCachedThreadPool());
        on(http, "/ready", q -> "ready");
        on(http, "/register", Client::register);
        on(http, "/deregister", q -> {
            App a = APPS.remove(q.get("id"));
            a.naming.deregisterInstance(a.service, a.group, a.instance);
            a.naming.shutDown();
            return "";
        });
        on(http, "/close", q -> {
            APPS.remove(q.get("id")).naming.shutDown();
            return "";
        });
        on(http, "/subscribe", Client::subscribe);
        on(http, "/seen", q -> String.join("\n", SEEN.get(q.get("id"))));
        http.start();
    }

    private static String register(Map<String, String> q) throws Exception {
        Instance i = new Instance();
        i.setIp(q.get("ip"));
        i.setPort(Integer.parseInt(q.get("port")));
        i.setClusterName(q.getOrDefault("cluster", "DEFAULT"));
        i.setWeight(Double.parseDouble(q.getOrDefault("weight", "1")));
        i.setEphemeral(Boolean.parseBoolean(q.getOrDefault("ephemeral", "true")));
        for (String pair : q.getOrDefault("metadata", "").split(",")) {
            int eq = pair.indexOf('=');
            if (eq > 0) {
                i.addMetadata(pair.substring(0, eq), pair.substring(eq + 1));
            }
        }
        App a = new App(connect(q), q.get("service"), q.getOrDefault("group", "DEFAULT_GROUP"), i);
        for (int tries = 0; ; tries++) { // the connection is made in the background
            try {
                a.naming.registerInstance(a.service, a.group, i);
                break;
            } catch (Exception e) {
                if (tries == 50) {
                    throw e;
                }
                Thread.sleep(200);
            }
        }
        APPS.put(q.get("id"), a);
        return "";
    }

    private static String subscribe(Map<String, String> q) throws Exception {
        List<String> seen = new CopyOnWriteArrayList<>();
        SEEN.put(q.get("id"), seen);
        NamingService naming = connect(q);
        String group = q.getOrDefault("group", "DEFAULT_GROUP");
        naming.subscribe(q.get("service"), group, event -> {
            TreeSet<String> callable = new TreeSet<>();
            for (Instance i : ((NamingEvent) event).getInstances()) {
                if (i.isEnabled() && i.isHealthy()) {
                    callable.add(i.getIp() + ":" + i.getPort());
                }
            }
            seen.add(System.currentTimeMillis() + " " + String.join(" ", callable));
        });
        APPS.put(q.get("id"), new App(naming, q.get("service"), group, null));
        return "";
    }

    /** One at a time: the client's loader of services (NacosServiceLoader) shows a second thread a list that it still fills. */
    private static synchronized NamingService connect(Map<String, String> q) throws Exception {
        Properties p = new Properties();
        p.put("serverAddr", q.get("server"));
        for (String name : List.of("namespace", "username", "password")) {
            if (q.containsKey(name)) {
                p.put(name, q.get(name));
            }
        }
        return NacosFactory.createNamingService(p);
    }

    private static void on(HttpServer http, String path, Command c) {
        http.createContext(path, x -> {
            int code = 200;
            String text;
            try {
                text = c.run(query(x));
            } catch (Exception e) {
                code = 500;
                text = e.toString();
            }
            byte[] body = text.getBytes(StandardCharsets.UTF_8);
            x.sendResponseHeaders(code, body.length == 0 ? -1 : body.length);
            x.getResponseBody().write(body);
            x.close();
        });
    }

    private static Map<String, String> query(HttpExchange x) {
        Map<String, String> q = new HashMap<>();
        String raw = x.getRequestURI().getRawQuery();
        for (String pair : raw == null ? new String[0] : raw.split("&")) {
            int eq = pair.indexOf('=');
            q.put(pair.substring(0, eq), URLDecoder.decode(pair.substring(eq + 1), StandardCharsets.UTF_8));
        }
        return q;
    }
}
