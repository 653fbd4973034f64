package config

import "slices"

// Running returns the Config of the running sidecar, made of the settings that it tells. Its secrets
// are not told: they are those of own, the command's, which are the same where the sidecar has them by
// variables or files. A Source with a HiddenLogin is one where that is not so.
func Running(own Config, told map[string]string) (Config, error) {
	var args []string
	for flag, value := range told {
		if value != isSet && flag != "token-file" && flag != "nacos-password-file" && flag != "listen" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	slices.Sort(args)
	c, err := Load("", args, own.env.only(append([]string{"HOST_IP"}, Lookup("instance-ip").Variables...)))
	if err != nil {
		return own, err
	}
	c.Output, c.Listen, c.Token = own.Output, own.Listen, own.Token
	c.GraceGiven = told["grace-period"] != Lookup("grace-period").Default
	hidden := told["nacos-password"] == isSet && !own.NacosPassword.Set()
	if c.NacosPassword = own.NacosPassword; told["nacos-password-file"] != "" {
		c.NacosPassword = Secret{file: told["nacos-password-file"]}
		_, err := c.NacosPassword.Get()
		hidden = err != nil
	}
	for i := range c.Registries {
		s := &c.Registries[i]
		s.HiddenLogin = s.logIn(own) || s.Kind.Name == "nacos" && hidden
	}
	return c, nil
}
