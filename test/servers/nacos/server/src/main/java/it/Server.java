package it;

/** Nacos 1.x or 2.x with its embedded Derby. Settings are -D properties. */
public class Server {
    public static void main(String[] args) {
        com.alibaba.nacos.Nacos.main(args);
    }
}
