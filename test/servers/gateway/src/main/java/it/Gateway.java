package it;
@org.springframework.boot.autoconfigure.SpringBootApplication
public class Gateway {
  public static void main(String[] a) { org.springframework.boot.SpringApplication.run(Gateway.class, a); }
}
