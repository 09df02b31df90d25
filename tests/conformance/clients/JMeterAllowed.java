import com.thoughtworks.xstream.XStream;
import com.thoughtworks.xstream.security.AnyTypePermission;
import java.lang.reflect.Field;
import org.apache.jmeter.NewDriver;
import org.apache.jmeter.save.SaveService;
import org.apache.jmeter.util.JMeterUtils;

/** Debian's JMeter 2.13 and its XStream do not fit together: the latter must be told which classes may be read. */
public class JMeterAllowed {
    public static void main(String[] arguments) throws Exception {
        String home = System.getProperty("jmeter.home");
        JMeterUtils.setJMeterHome(home);
        JMeterUtils.loadJMeterProperties(home + "/bin/jmeter.properties");
        for (String name : new String[] {"JMXSAVER", "JTLSAVER"}) {
            Field saver = SaveService.class.getDeclaredField(name);
            saver.setAccessible(true);
            ((XStream) saver.get(null)).addPermission(AnyTypePermission.ANY);
        }
        NewDriver.main(arguments);
    }
}
